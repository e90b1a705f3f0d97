iptables -w -N f2b-sshd
iptables -w -A f2b-sshd -j RETURN
iptables -w -I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
iptables -w -I f2b-sshd 1 -s 203.0.113.5 -j REJECT --reject-with icmp-port-unreachable
iptables -w -D f2b-sshd -s 203.0.113.5 -j REJECT --reject-with icmp-port-unreachable
ip6tables -w -N f2b-sshd
ip6tables -w -A f2b-sshd -j RETURN
ip6tables -w -I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
ip6tables -w -I f2b-sshd 1 -s 2001:db8:bad::7 -j REJECT --reject-with icmp6-port-unreachable
