#!/usr/bin/env bash
#
# Print the table of figures in README.md, measured on the captures.
#
#   usage: ./figures.sh [folder]        (default: the folder of this script)
#
# Packages (Debian names): tshark wireshark-common.
#
# "IP" counts the records whose network layer is IPv4 or IPv6 (the outermost
# one: an IP header quoted by an ICMP error does not count again); "flows" are
# tshark's TCP and UDP streams; "cut" counts records kept shorter than the
# packet was.

set -euo pipefail

folder=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
for need in tshark=tshark capinfos=wireshark-common; do
    if ! command -v "${need%%=*}" >/dev/null; then
        echo "figures.sh: install the package ${need#*=} first" >&2
        exit 1
    fi
done

count() { # file filter: records that match
    tshark -n -r "$1" -Y "$2" -T fields -e frame.number 2>/dev/null | wc -l
}

streams() { # file protocol: the number of streams
    tshark -n -r "$1" -Y "$2.stream" -T fields -e "$2.stream" 2>/dev/null |
        tr ',' '\n' | sort -u | wc -l
}

echo "| file | octets | link type | resolution | packets | IPv4 | IPv6 | IP | TCP flows | UDP flows | cut |"
echo "|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|"
for file in "$folder"/*.pcap "$folder"/*.pcapng; do
    # One line an interface.
    link=$(capinfos -I "$file" | sed -n 's/^ *Encapsulation = \(.*\) (.*/\1/p' |
        paste -sd + | sed 's/+/ + /')
    resolution=$(capinfos -I "$file" | sed -n 's/^ *Time precision = \(.*\) (.*/\1/p' |
        paste -sd + | sed 's/+/ + /')
    packets=$(capinfos -M -c "$file" | sed -n 's/^Number of packets: *//p')
    read -r four six < <(tshark -n -r "$file" -T fields -e frame.protocols 2>/dev/null |
        awk '{
            n = split($0, layer, ":")
            for (i = 1; i <= n; i++) {
                if (layer[i] == "ip") { four++; break }
                if (layer[i] == "ipv6") { six++; break }
            }
        } END { print four + 0, six + 0 }')
    echo "| $(basename "$file") | $(stat -c %s "$file") | $link |" \
        "$resolution | $packets | $four | $six | $((four + six)) |" \
        "$(streams "$file" tcp) | $(streams "$file" udp) |" \
        "$(count "$file" 'frame.cap_len < frame.len') |"
done
