#!/bin/sh
# A list of services that is read line by line, commands that are put together as text, a subshell and a function that asks.
set -e
has() { iptables -n -L "$1" > /dev/null 2>&1; }
has SERVICES && { iptables -D INPUT -j SERVICES; iptables -F SERVICES; iptables -X SERVICES; }
iptables -N SERVICES
while IFS=' ' read -r proto port from; do
    case $proto in ''|\#*) continue ;; esac
    rule="-p $proto --dport $port"
    [ "$from" = any ] || rule="-s $from $rule"
    eval "iptables -A SERVICES $rule -m conntrack --ctstate NEW -m comment --comment '$proto/$port from $from' -j ACCEPT"
done <<SERVICES
# protocol port from
tcp 22 192.0.2.0/24
tcp 8000:8010 any
udp 51820 any
SERVICES
(
    for cmd in iptables ip6tables; do
        $cmd -C INPUT -j DROP 2> /dev/null || $cmd -A INPUT -m conntrack --ctstate INVALID -j DROP
    done
) && iptables -A INPUT -j SERVICES
iptables -t mangle -A PREROUTING -p tcp -m multiport --dports 80,443 -j MARK --set-mark $((1 << 4))
iptables -S SERVICES | grep -c -- '--comment "'
