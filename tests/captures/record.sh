#!/usr/bin/env bash
#
# Record the captures in this folder.
#
#   usage: sudo ./record.sh [folder]        (default: the folder of this script)
#
# The script makes network namespaces of its own, runs real servers and real
# clients in them, records on the client's interface with tcpdump, and removes
# everything again, however it ends.  No packet leaves the machine.
#
#        client                    router                    server
#   eth0 192.0.2.10/24 ---- lan 192.0.2.1
#        2001:db8:1::10/64      2001:db8:1::1
#                               wan 198.51.100.1 ---- eth0 198.51.100.20/24
#                                   2001:db8:2::1          2001:db8:2::20/64
#   tun0 (no addresses of its own; the tunnel   ---- tun0 198.51.100.22
#         to .22 is a small program)                      2001:db8:2::22
#
# Two more pairs of namespaces serve dhcp.pcap and vlan.pcap.
#
# Packages (Debian names): iproute2 tcpdump wireshark-common ethtool curl
# nginx-light dnsmasq-base bind9-dnsutils openssl nmap iputils-ping
# iputils-tracepath traceroute ndisc6 netcat-openbsd telnet udhcpc python3.
# For figures.sh: tshark.
#
# Kernel: network namespaces, veth, TUN/TAP, HTB with the u32 classifier and
# policy routing.  VLAN devices, SCTP and DCCP are not needed: see README.md.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here}
limit=$((2 * 1024 * 1024)) # all captures together, in octets

fail() {
    echo "record.sh: $*" >&2
    exit 1
}

# --------------------------------------------------------------------------
# What has to be there
# --------------------------------------------------------------------------

# command=package
needs=(
    ip=iproute2 tc=iproute2 tcpdump=tcpdump editcap=wireshark-common
    mergecap=wireshark-common capinfos=wireshark-common ethtool=ethtool
    curl=curl nginx=nginx-light dnsmasq=dnsmasq-base dig=bind9-dnsutils
    openssl=openssl nmap=nmap ping=iputils-ping tracepath=iputils-tracepath
    traceroute=traceroute rdisc6=ndisc6 ndisc6=ndisc6 nc=netcat-openbsd
    telnet=telnet udhcpc=udhcpc python3=python3
)
missing=()
for need in "${needs[@]}"; do
    command -v "${need%%=*}" >/dev/null || missing+=("${need#*=}")
done
if ((${#missing[@]})); then
    names=$(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')
    fail "these packages are missing; install them first: ${names% }"
fi
[[ $EUID -eq 0 ]] || fail "namespaces and recording need root"
[[ -c /dev/net/tun ]] || fail "the kernel has no TUN/TAP device (/dev/net/tun)"
mkdir -p "$out"
out=$(cd "$out" && pwd)

# --------------------------------------------------------------------------
# Cleaning up, on any exit
# --------------------------------------------------------------------------

export PYTHONDONTWRITEBYTECODE=1 LC_ALL=C
tmp=$(mktemp -d /tmp/record.XXXXXX)
spaces=() # namespaces we made
pids=()   # processes we started

cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    set +e
    local pid space
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null
    done
    # A namespace is ours alone, so what is left in it is ours to end.
    for space in "${spaces[@]}"; do
        for pid in $(ip netns pids "$space" 2>/dev/null); do
            kill -KILL "$pid" 2>/dev/null
        done
        ip netns del "$space" 2>/dev/null
        rm -rf "/etc/netns/$space"
    done
    wait 2>/dev/null
    rmdir /etc/netns 2>/dev/null # only if it is empty
    rm -rf "$tmp"
    if ((status)); then
        echo "record.sh: stopped with status $status" >&2
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# --------------------------------------------------------------------------
# Small tools
# --------------------------------------------------------------------------

traffic() { # namespace arguments...: the package traffic in a namespace
    local space=$1
    shift
    ip netns exec "$space" python3 "$here/traffic" "$@"
}

at() { # namespace command...: a command in a namespace
    ip netns exec "$@"
}

try() { # namespace command...: the same, quiet, and allowed to fail or to stall
    local space=$1
    shift
    timeout 30 ip netns exec "$space" "$@" >>"$tmp/try.log" 2>&1 || true
}

background() { # namespace command...: start a process and remember it
    ip netns exec "$@" >>"$tmp/background.log" 2>&1 &
    pids+=($!)
}

new_space() { # variable name: make a namespace, put its name in the variable
    local name="captures-$2-$$"
    ip netns add "$name"
    spaces+=("$name")
    printf -v "$1" '%s' "$name"
    at "$name" ip link set lo up
    # Kernel errors without a rate limit, no DAD and no router advertisements
    # unless a recording asks for them.
    setting "$name" ipv4/icmp_ratelimit 0
    setting "$name" ipv6/icmp/ratelimit 0
    setting "$name" ipv6/conf/default/accept_dad 0
    setting "$name" ipv6/conf/default/accept_ra 0
    setting "$name" ipv6/conf/default/autoconf 0
    setting "$name" ipv4/conf/all/rp_filter 0
    setting "$name" ipv4/conf/default/rp_filter 0
    setting "$name" ipv4/ping_group_range "0 2147483647"
}

setting() { # namespace key value: one entry below /proc/sys/net
    # shellcheck disable=SC2016 # the inner shell expands its own arguments
    at "$1" sh -c 'echo "$2" >"/proc/sys/net/$1"' sh "$2" "$3"
}

wire() { # space device mac space device mac: a veth pair, checksums in software
    ip link add "$2" netns "$1" address "$3" type veth \
        peer name "$5" netns "$4" address "$6"
    local space device
    for space in "$1 $2" "$4 $5"; do
        read -r space device <<<"$space"
        # Else the packets on the "wire" have partial checksums, or are longer
        # than the MTU.
        at "$space" ethtool -K "$device" tx off sg off tso off gso off gro off \
            >/dev/null
        at "$space" ip link set "$device" up
    done
}

until_true() { # command...: wait up to ten seconds for it
    local turn
    for ((turn = 0; turn < 100; turn++)); do
        if "$@" >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.1
    done
    fail "waited in vain for: $*"
}

recorder=
start() { # namespace interface file tcpdump-options...: start to record
    local space=$1 device=$2 file=$3
    shift 3
    # Not by at(): this has to be tcpdump's own process, for stop().
    ip netns exec "$space" tcpdump -Z root -n -i "$device" -B 8192 --immediate-mode \
        "$@" -w "$file" 2>"$file.log" &
    recorder=$!
    pids+=("$recorder")
    until_true grep -q "listening on" "$file.log"
}

stop() { # file [pid]: stop the recorder, and check that it lost nothing
    sleep 0.5
    kill -TERM "${2:-$recorder}"
    wait "${2:-$recorder}"
    grep -q "^0 packets dropped by kernel" "$1.log" ||
        fail "packets were lost: $(tail -3 "$1.log")"
    [[ $(dirname "$1") == "$tmp" ]] || rm -f "$1.log"
}

begin() { # name: say what comes, and forget the neighbours so that it shows
    echo "recording $1"
    local space
    for space in "$client" "$router" "$server"; do
        try "$space" ip neigh flush all
        try "$space" ip -6 neigh flush all
        try "$space" ip route flush cache
        try "$space" ip -6 route flush cache
    done
}

# --------------------------------------------------------------------------
# The main topology
# --------------------------------------------------------------------------

client4=192.0.2.10 client6=2001:db8:1::10
router4=192.0.2.1 router6=2001:db8:1::1
server4=198.51.100.20 server6=2001:db8:2::20
far4=198.51.100.22 far6=2001:db8:2::22 # the server through the tunnel
mac=02:00:00:00:00                     # and a last octet

client='' router='' server=''
new_space client client
new_space router router
new_space server server
wire "$client" eth0 $mac:0a "$router" lan $mac:01
wire "$router" wan $mac:02 "$server" eth0 $mac:14

client_addresses() {
    at "$client" ip -6 addr replace $client6/64 dev eth0
    at "$client" ip -6 route replace default via $router6
}
at "$client" ip addr add $client4/24 dev eth0
at "$client" ip route add default via $router4
client_addresses
at "$router" ip addr add $router4/24 dev lan
at "$router" ip addr add $router6/64 dev lan
at "$router" ip addr add 198.51.100.1/24 dev wan
at "$router" ip addr add 2001:db8:2::1/64 dev wan
at "$server" ip addr add $server4/24 dev eth0
at "$server" ip addr add $server6/64 dev eth0
at "$server" ip route add default via 198.51.100.1
at "$server" ip -6 route add default via 2001:db8:2::1
setting "$router" ipv4/ip_forward 1
setting "$router" ipv6/conf/all/forwarding 1
setting "$router" ipv4/conf/all/send_redirects 0
# Source routes and segment routing, for options.pcap.
for end in "$client eth0" "$router lan" "$router wan" "$server eth0"; do
    read -r space device <<<"$end"
    for key in all "$device"; do
        setting "$space" "ipv4/conf/$key/accept_source_route" 1
        setting "$space" "ipv6/conf/$key/seg6_enabled" 1
    done
done

# The tunnel: the server's .22 is reached over tun0 instead of the router.
background "$client" python3 "$here/traffic" tunnel tun0 "/run/netns/$server"
until_true at "$server" ip link show tun0
at "$client" ip link set tun0 up
at "$server" ip link set tun0 up
at "$server" ip addr add $far4/32 dev tun0
at "$server" ip addr add $far6/128 dev tun0 nodad
at "$client" ip route add $far4/32 dev tun0 src $client4
at "$client" ip -6 route add $far6/128 dev tun0 src $client6
at "$server" ip rule add from $far4 lookup 100
at "$server" ip -6 rule add from $far6 lookup 100
at "$server" ip route add default dev tun0 table 100
at "$server" ip -6 route add default dev tun0 table 100

# --------------------------------------------------------------------------
# The servers
# --------------------------------------------------------------------------

mkdir -p "$tmp/www"
seq -f 'line %04g of a page of modest length' 1 150 >"$tmp/www/page.txt"
# A certificate for this run alone; its key is thrown away with the folder.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -keyout "$tmp/key.pem" -out "$tmp/cert.pem" -days 2 \
    -subj /CN=www.example.test \
    -addext "subjectAltName=DNS:www.example.test,DNS:secure.example.test" \
    2>/dev/null
cat >"$tmp/nginx.conf" <<END
user root;
worker_processes 1;
daemon off;
pid $tmp/nginx.pid;
error_log $tmp/nginx-error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $tmp/body;
    proxy_temp_path $tmp/proxy;
    fastcgi_temp_path $tmp/fastcgi;
    uwsgi_temp_path $tmp/uwsgi;
    scgi_temp_path $tmp/scgi;
    default_type text/plain;
    server_tokens off;
    server {
        listen 80 default_server;
        listen [::]:80 default_server;
        listen 443 ssl http2 default_server;
        listen [::]:443 ssl http2 default_server;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate $tmp/cert.pem;
        ssl_certificate_key $tmp/key.pem;
        server_name www.example.test secure.example.test;
        root $tmp/www;
        location = / { return 200 "welcome to \$host\n"; }
        location /page { try_files \$uri /page.txt; }
        location = /moved { return 302 http://www.example.test/; }
    }
    server {
        listen 80;
        listen [::]:80;
        server_name ads.example.test;
        location / { return 200 "buy something\n"; }
    }
    server {
        listen 80;
        listen [::]:80;
        server_name api.example.test;
        location / { return 200 "{\"answer\": 42}\n"; }
    }
}
END
background "$server" nginx -e "$tmp/nginx-error.log" -c "$tmp/nginx.conf"

records=()
for host in www ads api secure; do
    records+=("--host-record=$host.example.test,$server4,$server6")
done
for number in {1..12}; do # too much for a UDP answer of 512 octets
    records+=("--txt-record=big.example.test,text $number $(printf '%060d' 0)")
done
background "$server" dnsmasq --keep-in-foreground --conf-file=/dev/null \
    --user=root --pid-file="$tmp/dns.pid" --log-facility="$tmp/dns.log" \
    --no-resolv --no-hosts --local=/test/ --bind-interfaces \
    --listen-address=$server4,$server6,$far4,$far6 \
    --txt-record=www.example.test,"a short text" \
    --mx-host=example.test,mail.example.test,10 \
    --srv-host=_http._tcp.example.test,www.example.test,80 \
    --host-record=mail.example.test,198.51.100.25 \
    --cname=alias.example.test,www.example.test "${records[@]}"

background "$server" python3 "$here/traffic" serve \
    $server4 $server6 $far4 $far6
mkdir -p "/etc/netns/$client"
printf 'nameserver %s\noptions timeout:2\n' $server4 >"/etc/netns/$client/resolv.conf"

for port in 80 443 53 23 7; do
    until_true at "$server" nc -z $server4 $port
    until_true at "$server" nc -z $server6 $port
done

fetch() { # curl in the client's namespace
    try "$client" curl -s -o /dev/null --max-time 5 "$@"
}

look_up() { # dig in the client's namespace
    try "$client" dig +time=2 +tries=1 "$@"
}

# --------------------------------------------------------------------------
# The recordings
# --------------------------------------------------------------------------

begin web.pcapng
start "$client" eth0 "$tmp/web.pcap"
for host in www ads api; do # the name is looked up, the A and AAAA records
    fetch -4 "http://$host.example.test/"
    fetch -6 "http://$host.example.test/"
done
fetch "http://www.example.test/page.txt"
fetch -L "http://www.example.test/moved"
fetch "http://www.example.test/not-there"
fetch -d "name=value&other=thing" "http://api.example.test/post"
fetch -I "http://ads.example.test/banner"
fetch --resolve "www.example.test:80:$server4" "http://www.example.test/page1"
fetch -H "Host: ads.example.test" "http://$server4/by-header"
fetch -H "Host: ads.example.test" "http://[$server6]/by-header"
fetch --http1.0 "http://$server4/" # HTTP/1.0
fetch -k --http1.1 "https://secure.example.test/"
fetch -k --tls-max 1.2 --http1.1 "https://www.example.test/page.txt"
fetch -k --http2 -6 "https://secure.example.test/page"
# Several requests on one connection, by curl and by hand.
fetch "http://www.example.test/[1-4]" "http://www.example.test/page.txt"
traffic "$client" keepalive $server4 80 www.example.test 6
traffic "$client" keepalive $server6 80 ads.example.test 4
# Telnet: options, a banner, one attempt to log in.
for address in $server4 $server6; do
    { sleep 0.5 && printf 'guest\n' && sleep 0.5; } | try "$client" telnet "$address"
done
# Refused, and aborted by the client.
fetch "http://$server4:81/"
fetch "http://[$server6]:8080/"
traffic "$client" abort $server4 80
stop "$tmp/web.pcap"
editcap -F pcapng "$tmp/web.pcap" "$out/web.pcapng"

begin dns.pcap
start "$client" eth0 "$out/dns.pcap" --time-stamp-precision=micro
for resolver in $server4 $server6; do
    for kind in A AAAA TXT MX; do
        look_up @"$resolver" www.example.test $kind
    done
    look_up @"$resolver" example.test MX
    look_up @"$resolver" _http._tcp.example.test SRV
    look_up @"$resolver" alias.example.test A
    look_up @"$resolver" -x $server4
    look_up @"$resolver" nothing.example.test A
    look_up @"$resolver" nothing.example.test AAAA
    look_up @"$resolver" www.example.test A +noedns
    look_up @"$resolver" +tcp www.example.test A
    look_up @"$resolver" +tcp ads.example.test AAAA
    look_up @"$resolver" +tcp big.example.test TXT
    # Too long for UDP: truncated (TC), asked again over TCP.
    look_up @"$resolver" +noedns big.example.test TXT
    look_up @"$resolver" +ignore +bufsize=512 big.example.test TXT
    look_up @"$resolver" +bufsize=1232 big.example.test TXT
    # Several questions on one TCP connection.
    look_up @"$resolver" +tcp +keepopen www.example.test A api.example.test A \
        nothing.example.test A
done
look_up @$server4 -p 5353 www.example.test A # nobody there: port unreachable
stop "$out/dns.pcap"

begin ipv6.pcapng
setting "$client" ipv6/conf/eth0/disable_ipv6 1
setting "$client" ipv6/conf/eth0/accept_dad 1
setting "$client" ipv6/conf/eth0/accept_ra 1
start "$client" eth0 "$tmp/ipv6.pcap" --time-stamp-precision=nano
ip netns exec "$router" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 \
    --user=root --pid-file="$tmp/ra.pid" --log-facility="$tmp/ra.log" \
    --interface=lan --enable-ra --dhcp-range=2001:db8:1::,ra-only,64 \
    --dhcp-leasefile="$tmp/ra.leases" &
advertiser=$!
pids+=("$advertiser")
sleep 1
# The interface comes up anew: DAD, MLD reports, router solicitation.
setting "$client" ipv6/conf/eth0/disable_ipv6 0
sleep 2.5
at "$client" ip -6 addr add $client6/64 dev eth0
sleep 2
# An address that the router has already: DAD fails.
try "$client" ip -6 addr add $router6/64 dev eth0
sleep 1.5
try "$client" ip -6 addr del $router6/64 dev eth0
try "$client" rdisc6 -1 eth0
try "$client" ndisc6 -1 $router6 eth0
try "$client" ping -6 -c 3 -i 0.2 $router6
try "$client" ping -6 -c 3 -i 0.2 -I eth0 fe80::ff:fe00:1
try "$client" ping -6 -c 2 -i 0.2 -I eth0 ff02::1
try "$client" ping -6 -c 3 -i 0.2 $server6
fetch "http://[$server6]/"
fetch -H "Host: ads.example.test" "http://[$server6]/"
fetch "http://[$server6]/page.txt"
look_up @$server6 www.example.test AAAA
traffic "$client" echo $server6 0 1 100 1000
traffic "$client" multicast eth0 192.0.2.255
stop "$tmp/ipv6.pcap"
kill "$advertiser"
wait "$advertiser" 2>/dev/null || true
editcap -F pcapng "$tmp/ipv6.pcap" "$out/ipv6.pcapng"
setting "$client" ipv6/conf/eth0/accept_dad 0
setting "$client" ipv6/conf/eth0/accept_ra 0
client_addresses
at "$client" ip -6 route replace $far6/128 dev tun0 src $client6

begin icmp.pcap
at "$router" ip link set wan mtu 1400
at "$server" ip link set eth0 mtu 1400
# The router answers for these: prohibited, unreachable, and no route at all.
at "$router" ip route add prohibit 203.0.113.66
at "$router" ip route add unreachable 203.0.113.67
at "$router" ip -6 route add prohibit 2001:db8:66::66
at "$router" ip -6 route add unreachable 2001:db8:66::67
start "$client" eth0 "$out/icmp.pcap" --time-stamp-precision=nano
for identifier in 1 256 4660 65535; do
    try "$client" ping -4 -e $identifier -c 2 -i 0.2 $server4
    try "$client" ping -6 -e $identifier -c 2 -i 0.2 $server6
done
try "$client" ping -4 -e 77 -c 1 -s 0 $server4
try "$client" ping -4 -e 78 -c 2 -i 0.2 $router4
try "$server" ping -4 -e 79 -c 2 -i 0.2 $client4 # from the other side
try "$server" ping -6 -e 80 -c 2 -i 0.2 $client6
# Port unreachable, from the server.
for address in $server4 $server6; do
    for port in 33000 33001 33002; do
        try "$client" nc -u -w 1 "$address" $port <<<"anybody there?"
    done
done
# Time exceeded, from the router: by UDP, ICMP and TCP probes.
for version in "-4 $server4" "-6 $server6"; do
    read -r version address <<<"$version"
    try "$client" traceroute "$version" -n -q 2 -m 4 -w 1 "$address"
    try "$client" traceroute "$version" -n -q 2 -m 4 -w 1 -I "$address"
    try "$client" traceroute "$version" -n -q 1 -m 4 -w 1 -T -p 80 "$address"
    try "$client" tracepath "$version" -n -m 4 "$address"
done
# Too big for the far link: fragmentation needed, packet too big.
try "$client" ip route flush cache
try "$client" ip -6 route flush cache
try "$client" ping -4 -M "do" -c 2 -i 0.2 -s 1472 $server4
try "$client" ping -6 -M "do" -c 2 -i 0.2 -s 1452 $server6
# Prohibited, unreachable, no route, nobody at that address.
# (Linux limits the IPv4 errors of this kind by time: ask twice, two seconds
# apart.)
for address in 203.0.113.66 203.0.113.67 203.0.113.68 198.51.100.99; do
    try "$client" ping -4 -c 2 -i 2 -W 4 $address
done
for address in 2001:db8:66::66 2001:db8:66::67 2001:db8:66::68 2001:db8:2::99; do
    try "$client" ping -6 -c 1 -W 4 $address
done
# Other questions: the time stamp (nping sends it, the server's kernel answers).
if command -v nping >/dev/null; then
    try "$client" nping --icmp --icmp-type timestamp -c 1 $server4
fi
stop "$out/icmp.pcap"
at "$router" ip link set wan mtu 1500
at "$server" ip link set eth0 mtu 1500

begin scan.pcap
start "$client" eth0 "$out/scan.pcap"
# --data-length 0: no probes from nmap's own collection.
try "$client" nmap -n -Pn -sS -p 1-250 --max-retries 1 $server4
try "$client" nmap -n -Pn -sT -p 1-100 --max-retries 1 $server4
try "$client" nmap -n -Pn -sU -p 1-100 --max-retries 1 --data-length 0 $server4
try "$client" nmap -6 -n -Pn -sT -p 1-60 --max-retries 1 $server6
stop "$out/scan.pcap"

begin udp-burst.pcap
start "$client" eth0 "$out/udp-burst.pcap"
traffic "$client" burst --flows 4 --count 500 --size 32 $server4 $server6
for address in $server4 $server6; do
    traffic "$client" flood-echo "$address" 40 100
done
stop "$out/udp-burst.pcap"

begin fragments.pcap
start "$client" eth0 "$out/fragments.pcap"
for address in $server4 $server6; do
    traffic "$client" echo "$address" 1472 1473 3000 8192
    try "$client" ping -c 2 -i 0.2 -s 8000 "$address"
    try "$client" ping -c 1 -s 20000 "$address"
done
# Now out of order: first fragments and those at offset 2960 (IPv4) or 1448
# (IPv6) take a slow class, the rest overtakes them.  On both ends of the client's
# link, so that it shows in both directions.
for end in "$client eth0" "$router lan"; do
    read -r space device <<<"$end"
    at "$space" tc qdisc add dev "$device" root handle 1: htb default 10
    at "$space" tc class add dev "$device" parent 1: classid 1:10 \
        htb rate 1gbit quantum 60000
    at "$space" tc class add dev "$device" parent 1: classid 1:20 \
        htb rate 1mbit burst 1600 quantum 1600
    at "$space" tc filter add dev "$device" parent 1: prio 1 protocol ip u32 \
        match u16 0x2000 0x3fff at 6 flowid 1:20
    at "$space" tc filter add dev "$device" parent 1: prio 1 protocol ip u32 \
        match u16 0x2172 0x3fff at 6 flowid 1:20
    # IPv6: next header 44, and the first or second fragment.
    at "$space" tc filter add dev "$device" parent 1: prio 2 protocol ipv6 u32 \
        match u8 44 0xff at 6 match u16 0x0001 0xffff at 42 flowid 1:20
    at "$space" tc filter add dev "$device" parent 1: prio 2 protocol ipv6 u32 \
        match u8 44 0xff at 6 match u16 0x05a9 0xffff at 42 flowid 1:20
done
for address in $server4 $server6; do
    traffic "$client" flood-echo "$address" 8192 4
    traffic "$client" flood-echo "$address" 4000 4
    try "$client" ping -c 2 -i 0.2 -s 8000 "$address"
done
stop "$out/fragments.pcap"
at "$client" tc qdisc del dev eth0 root
at "$router" tc qdisc del dev lan root

begin options.pcap
background "$server" python3 "$here/traffic" raw-peers $server4 $server6
sleep 0.5
start "$client" eth0 "$out/options.pcap"
try "$client" ping -4 -c 2 -i 0.2 -R $server4
try "$client" ping -4 -c 1 -T tsonly $server4
try "$client" ping -4 -c 1 -T tsandaddr $server4
try "$client" ping -4 -c 1 -T tsprespec $router4 $server4 $server4
traffic "$client" options --client4 $client4 --server4 $server4 --router4 $router4 \
    --client6 $client6 --server6 $server6 --router6 $router6
stop "$out/options.pcap"

# The same kinds of traffic for several link types.
mixture() { # IPv4 address, IPv6 address
    fetch "http://$1/" "http://$1/page.txt"
    fetch -H "Host: ads.example.test" "http://$1/"
    fetch "http://[$2]/"
    fetch "http://$1:81/"
    look_up "@$1" www.example.test A
    look_up "@$2" www.example.test AAAA
    look_up "@$1" +tcp big.example.test TXT
    try "$client" ping -4 -c 3 -i 0.2 "$1"
    try "$client" ping -6 -c 3 -i 0.2 "$2"
    traffic "$client" echo "$1" 10 500
    traffic "$client" echo "$2" 10 500
    traffic "$client" echo "$1" 3000
}

begin any.pcap
start "$client" any "$out/any.pcap"
mixture $server4 $server6
mixture $far4 $far6
try "$client" ping -4 -c 2 -i 0.2 127.0.0.1
try "$client" ping -6 -c 2 -i 0.2 ::1
try "$server" ping -4 -c 2 -i 0.2 $client4
traffic "$client" multicast eth0 192.0.2.255
stop "$out/any.pcap"

begin cooked-v1.pcap
start "$client" any "$out/cooked-v1.pcap" -y LINUX_SLL
mixture $server4 $server6
mixture $far4 $far6
try "$client" ping -4 -c 2 -i 0.2 127.0.0.1
try "$server" ping -6 -c 2 -i 0.2 $client6
stop "$out/cooked-v1.pcap"

begin raw.pcap
start "$client" tun0 "$out/raw.pcap"
mixture $far4 $far6
try "$client" ping -4 -c 1 -s 4000 $far4
try "$client" nc -u -w 1 $far4 33000 <<<"anybody there?"
stop "$out/raw.pcap"

begin multi-interface.pcapng
start "$client" eth0 "$tmp/multi-eth.pcap" --time-stamp-precision=micro
first=$recorder
start "$client" tun0 "$tmp/multi-tun.pcap" --time-stamp-precision=nano
mixture $server4 $server6
mixture $far4 $far6
fetch "http://$server4/" "http://$far4/" "http://[$server6]/" "http://[$far6]/"
stop "$tmp/multi-eth.pcap" "$first"
stop "$tmp/multi-tun.pcap"
mergecap -F pcapng -I none -w "$out/multi-interface.pcapng" \
    "$tmp/multi-eth.pcap" "$tmp/multi-tun.pcap"

begin snaplen.pcap
start "$client" eth0 "$out/snaplen.pcap" -s 68
for host in www ads api; do
    fetch -4 "http://$host.example.test/page.txt"
    fetch -6 "http://$host.example.test/page.txt"
done
fetch -k "https://secure.example.test/"
traffic "$client" keepalive $server4 80 www.example.test 4
mixture $server4 $server6
stop "$out/snaplen.pcap"

begin loopback.pcap
background "$client" python3 "$here/traffic" serve --http 127.0.0.1 ::1
until_true at "$client" nc -z ::1 80
until_true at "$client" nc -z 127.0.0.1 7
start "$client" lo "$tmp/lo.pcap"
for address in 127.0.0.1 '[::1]'; do
    fetch "http://$address/" "http://$address/again"
    fetch -H "Host: ads.example.test" "http://$address/"
    fetch "http://$address:81/"
done
for address in 127.0.0.1 ::1; do
    try "$client" ping -c 3 -i 0.2 $address
    traffic "$client" echo $address 10 500 3000
    try "$client" nc -u -w 1 $address 33000 <<<"anybody there?"
done
fetch "http://$client4:81/" # the host's own address, over lo
stop "$tmp/lo.pcap"
python3 "$here/traffic" to-null "$tmp/lo.pcap" "$out/loopback.pcap"

echo "recording dhcp.pcap"
guest='' host=''
new_space guest guest
new_space host host
wire "$guest" eth0 $mac:0a "$host" lan $mac:01
at "$host" ip addr add $router4/24 broadcast + dev lan
background "$host" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 \
    --user=root --pid-file="$tmp/dhcp.pid" --log-facility="$tmp/dhcp.log" \
    --interface=lan --dhcp-authoritative --dhcp-leasefile="$tmp/leases" \
    --dhcp-range=192.0.2.100,192.0.2.120,1h --dhcp-host=$mac:0a,$client4 \
    --dhcp-option=option:dns-server,$server4 --domain=example.test
cat >"$tmp/lease.sh" <<'END'
#!/bin/sh
# What udhcpc does with a lease: set the address and the route, nothing else.
case $1 in
    deconfig) ip -4 addr flush dev "$interface" ;;
    bound | renew)
        ip addr replace "$ip/${mask:-24}" broadcast + dev "$interface"
        ip route replace default via "${router%% *}"
        ;;
esac
END
chmod +x "$tmp/lease.sh"
sleep 1
start "$guest" eth0 "$out/dhcp.pcap"
background "$guest" udhcpc -f -R -i eth0 -s "$tmp/lease.sh" -x hostname:client
leaser=${pids[-1]}
# shellcheck disable=SC2016 # the inner shell expands its own arguments
until_true at "$guest" sh -c 'ip -4 addr show dev eth0 | grep -q "$1/24"' sh $client4
try "$guest" ping -4 -c 1 $router4
kill -USR1 "$leaser" # renew
sleep 1
traffic "$guest" multicast eth0 192.0.2.255
traffic "$host" multicast lan 192.0.2.255
kill -TERM "$leaser" # give it back (-R)
sleep 1
stop "$out/dhcp.pcap"

echo "recording vlan.pcap"
inner='' outer=''
new_space inner inner
new_space outer outer
wire "$inner" eth0 $mac:0a "$outer" eth0 $mac:01
for space in "$inner" "$outer"; do
    at "$space" ip link set eth0 mtu 1600
    background "$space" python3 "$here/traffic" vlan-port eth0 \
        --vlan vlan10=8100:10:0 --vlan qinq=88a8:100:3,8100:20:5
    until_true at "$space" ip link show qinq
done
# A VLAN device has the address of its parent.
tagged() { # namespace, last octet of the MAC, of IPv4, of IPv6
    at "$1" ip link set vlan10 address $mac:"$2"
    at "$1" ip link set qinq address $mac:"$2"
    at "$1" ip addr add "192.0.2.$3/24" dev vlan10
    at "$1" ip addr add "2001:db8:1::$4/64" dev vlan10
    at "$1" ip addr add "203.0.113.$3/24" dev qinq
    at "$1" ip addr add "2001:db8:3::$4/64" dev qinq
    at "$1" ip link set vlan10 up
    at "$1" ip link set qinq up
}
background "$outer" python3 "$here/traffic" serve --http \
    0.0.0.0 ::
start "$inner" eth0 "$out/vlan.pcap"
tagged "$inner" 0a 10 10
tagged "$outer" 01 1 1
until_true at "$outer" nc -z 127.0.0.1 80
until_true at "$outer" nc -z ::1 80
for address in 192.0.2.1 2001:db8:1::1 203.0.113.1 2001:db8:3::1; do
    try "$inner" ping -c 3 -i 0.2 $address
    traffic "$inner" echo $address 10 500 3000
    if [[ $address == *:* ]]; then url="http://[$address]/"; else url="http://$address/"; fi
    try "$inner" curl -s -o /dev/null --max-time 5 "$url" "${url}again"
    try "$inner" curl -s -o /dev/null --max-time 5 -H "Host: ads.example.test" "$url"
    try "$inner" nc -w 1 -z $address 81
    try "$inner" nc -u -w 1 $address 33000 <<<"anybody there?"
done
# And untagged, on the parent itself.
try "$inner" ping -6 -c 2 -i 0.2 -I eth0 fe80::ff:fe00:1%eth0
stop "$out/vlan.pcap"

# --------------------------------------------------------------------------
# The result
# --------------------------------------------------------------------------

total=0
for file in "$out"/*.pcap "$out"/*.pcapng; do
    capinfos "$file" >/dev/null || fail "$file cannot be read"
    size=$(stat -c %s "$file")
    total=$((total + size))
    printf '%8d  %s\n' "$size" "$(basename "$file")"
done
((total < limit)) || fail "the captures have $total octets; the limit is $limit"
echo "$total octets in all; ./figures.sh prints the table for README.md"
