#!/bin/sh
# A host that is reached by ssh alone, and that may itself reach everything.
#
#     keepstate up --rules examples/base.sh

iptables -F
iptables -X
iptables -Z

iptables -P INPUT DROP
iptables -P FORWARD DROP
iptables -P OUTPUT ACCEPT

# The host talks to itself.
iptables -A INPUT -i lo -j ACCEPT

# What belongs to a connection that was let through passes.
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT

# What cannot belong to any connection goes no further.
iptables -A INPUT -m conntrack --ctstate INVALID -j DROP

# New connections: ssh.
iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
