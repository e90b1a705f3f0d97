#!/bin/bash
# Functions, an array, the program in a variable, modprobe and /proc.
IPT=/sbin/iptables
IP6T=$(command -v ip6tables)
MODPROBE=/sbin/modprobe
WAN_IF="ext0"; TRUSTED=(192.0.2.10 192.0.2.11)
for m in ip_tables nf_conntrack nf_conntrack_ftp; do $MODPROBE $m 2>/dev/null || true; done
for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > "$f"; done
echo 1 > /proc/sys/net/ipv4/tcp_syncookies
echo 131072 > /proc/sys/net/netfilter/nf_conntrack_max
sysctl -q -w net.netfilter.nf_conntrack_tcp_timeout_established=7200
flush() {
  for t in filter nat mangle raw; do
    $IPT -t $t -F; $IPT -t $t -X; $IPT -t $t -Z
  done
  $IPT -P INPUT ACCEPT; $IPT -P FORWARD ACCEPT; $IPT -P OUTPUT ACCEPT
}
start() {
  flush
  $IPT -N logdrop
  $IPT -A logdrop -m limit --limit 5/m --limit-burst 7 -j LOG --log-level 4 --log-prefix "DROP: "
  $IPT -A logdrop -j DROP
  $IPT -A INPUT -i lo -j ACCEPT
  $IPT -A INPUT -m state --state INVALID -j logdrop
  $IPT -A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT
  for h in "${TRUSTED[@]}"; do $IPT -A INPUT -i $WAN_IF -s $h -p tcp --dport 22 -m state --state NEW -j ACCEPT; done
  for p in 80 443; do $IPT -A INPUT -p tcp --dport $p --syn -m state --state NEW -j ACCEPT; done
  $IPT -A INPUT -p icmp --icmp-type echo-request -m limit --limit 2/s -j ACCEPT
  $IPT -A INPUT -j logdrop
  $IPT -P INPUT DROP; $IPT -P FORWARD DROP
  $IP6T -F; $IP6T -P INPUT DROP
  $IP6T -A INPUT -p icmpv6 -j ACCEPT
}
case "${1:-start}" in start) start;; stop) flush;; *) echo usage; exit 1;; esac
$IPT -L -n -v | grep -c logdrop
