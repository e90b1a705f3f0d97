#!/bin/sh
# A set that is swapped for a new one, and rules from a here-document.
set -eu
ipset create -exist blocklist hash:net family inet maxelem 131072
ipset create blocklist-new hash:net family inet maxelem 131072 -exist
printf '%s\n' 198.51.100.0/24 203.0.113.7 | while read -r net; do ipset add blocklist-new "$net" -exist; done
ipset swap blocklist blocklist-new
ipset destroy blocklist-new
iptables-restore <<RULES
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:TCP - [0:0]
:UDP - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m set --match-set blocklist src -j DROP
-A INPUT -p icmp -m icmp --icmp-type 8 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p udp -m conntrack --ctstate NEW -j UDP
-A INPUT -p tcp --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j TCP
-A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p tcp -j REJECT --reject-with tcp-reset
-A INPUT -j REJECT --reject-with icmp-proto-unreachable
-A TCP -p tcp --dport 22 -j ACCEPT
COMMIT
RULES
iptables-save | iptables-restore --test
iptables -C INPUT -m set --match-set blocklist src -j DROP && echo present
