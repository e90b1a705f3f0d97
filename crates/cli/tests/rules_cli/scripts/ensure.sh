#!/bin/bash
# What is there already is not added again, as tools that deploy hosts do it; a ban comes and goes.
set -o errexit -o nounset -o pipefail
ensure() { local tbl=$1 chain=$2; shift 2; iptables -w 5 -t "$tbl" -C "$chain" "$@" 2>/dev/null || iptables -w 5 -t "$tbl" -A "$chain" "$@"; }
ensure_first() { local chain=$1; shift; while iptables -w -D "$chain" "$@" 2>/dev/null; do :; done; iptables -w -I "$chain" 1 "$@"; }
iptables -w -nL f2b-ssh >/dev/null 2>&1 || iptables -w -N f2b-ssh
ensure filter f2b-ssh -j RETURN
for again in 1 2; do ensure_first INPUT -p tcp -m multiport --dports ssh,115 -j f2b-ssh; done
iptables -w -I f2b-ssh 1 -s 203.0.113.9 -j REJECT --reject-with icmp-port-unreachable
iptables -w -n -L INPUT | grep -q 'f2b-ssh[ \t]'
iptables -w -D f2b-ssh -s 203.0.113.9 -j REJECT --reject-with icmp-port-unreachable
num=$(iptables -w -nL INPUT --line-numbers | awk '/f2b-ssh/ {print $1; exit}')
iptables -w -D INPUT "$num"
iptables -w -F f2b-ssh; iptables -w -X f2b-ssh
iptables -S | wc -l
