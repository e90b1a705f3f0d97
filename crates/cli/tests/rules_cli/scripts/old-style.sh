# No interpreter named, a PATH of its own, long options, `service`.
PATH=/usr/sbin:/sbin:/bin:/usr/bin
export LC_ALL=C
lsmod 2>/dev/null | grep -q conntrack || modprobe nf_conntrack 2>/dev/null
if [ -f /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts ]; then echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts; fi
iptables --flush ; iptables --delete-chain
iptables --policy INPUT DROP; iptables --policy OUTPUT ACCEPT; iptables --policy FORWARD DROP
iptables --append INPUT --in-interface lo --jump ACCEPT
iptables --append INPUT --match state --state ESTABLISHED,RELATED --jump ACCEPT
for ip in `echo 192.0.2.1 192.0.2.2`; do iptables --insert INPUT 2 --source $ip --protocol tcp --destination-port 22 --syn --match state --state NEW --jump ACCEPT; done
iptables --append INPUT --protocol tcp --dport 25 --match connlimit --connlimit-above 10 --jump REJECT --reject-with tcp-reset
iptables --append INPUT --match pkttype --pkt-type broadcast --jump DROP
iptables --append INPUT --match hashlimit --hashlimit 5/min --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name dns --protocol udp --dport 53 --jump ACCEPT
saved=`mktemp`; trap 'rm -f $saved' EXIT
iptables-save -c > $saved
ip6tables-save > /dev/null
iptables-restore -c < $saved
service iptables save
conntrack -L > /dev/null 2>&1
sysctl -n net.netfilter.nf_conntrack_buckets > /dev/null
iptables -S | grep -c -- -A
