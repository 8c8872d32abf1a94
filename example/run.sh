#!/bin/sh
# Boots a disk image in Bochs and prints what came over its serial port. `cargo run` calls this with the image.
#
# Needs Debian's packages bochs, bochs-term, bochsbios and vgabios. MODEL is another processor: `bochs-bin -help cpu`.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$1" "$folder/disk.img"
printf 'continue\nquit\n' >"$folder/debugger.rc"
cat >"$folder/bochsrc" <<EOF
display_library: rfb, options="timeout=0"
config_interface: textconfig
romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=${MODEL:-tigerlake}, ips=4000000, reset_on_triple_fault=0
memory: guest=64, host=64
clock: sync=none, time0=946684800
ata0-master: type=disk, path="$folder/disk.img", mode=flat, cylinders=1, heads=16, spt=63
boot: disk
com1: enabled=1, mode=file, dev="$folder/serial.txt"
plugin_ctrl: unmapped=1, speaker=0
log: "$folder/bochs.log"
panic: action=fatal
EOF
status=0
bochs-bin -q -f "$folder/bochsrc" -rc "$folder/debugger.rc" </dev/null >"$folder/bochs.txt" 2>&1 || status=$?
cat "$folder/serial.txt" 2>/dev/null || status=1
# What the emulator has to say of a machine that did not end well.
[ "$status" -eq 0 ] || cat "$folder/bochs.log" "$folder/bochs.txt" 2>/dev/null | grep -E '^[0-9]+[ep]' >&2 || true
exit "$status"
