#!/usr/bin/env bats
# The command line, compared with QEMU's own: the same words are accepted by both or refused by both,
# and where revirter is meant to differ it does. revirter says what words mean with -x-dump-config,
# which needs no kernel and opens nothing; QEMU runs them, stopped, and is told to quit.

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_DIRNAME/../.."
	revirter=$(realpath "${BUILD:-build}")/revirter
	cd "$BATS_TEST_TMPDIR"
	truncate -s 1M disk.img
}

# ours WORDS…: 0 when revirter accepts them. A refusal is one line and status 1.
ours() {
	local status=0

	"$revirter" -x-dump-config "$@" >dump.json 2>refusal || status=$?
	[ $status != 0 ] || return 0
	if [ $status != 1 ] || [ "$(wc -l <refusal)" != 1 ] || ! grep -q '^revirter: -' refusal; then
		echo "status $status, and said: $(cat refusal)"
		exit 1
	fi
	return 1
}

# theirs WORDS…: 0 when QEMU accepts them. Its accelerator is TCG where the words leave that open.
theirs() {
	local accel=(-accel tcg)

	[[ " $* " != *accel* ]] || accel=()
	printf '{"execute":"qmp_capabilities"}{"execute":"quit"}' |
		timeout 30 qemu-system-x86_64 -S -display none -nodefaults -net none "${accel[@]}" \
			-qmp stdio "$@" >/dev/null 2>&1
}

# both WANT: reads lines of words; quotes work as in a shell. Both must do as WANT says, accept or refuse.
both() {
	local line want=$1 bad=0 us them

	while IFS= read -r line; do
		eval "set -- $line"
		us=refuse them=refuse
		! ours "$@" || us=accept
		! theirs "$@" || them=accept
		[ "$us $them" = "$want $want" ] || {
			echo "$line: revirter would $us it ($(cat refusal)), QEMU would $them it"
			bad=1
		}
	done
	return $bad
}

# only_theirs: reads lines of words that QEMU accepts and revirter refuses.
only_theirs() {
	local line bad=0

	while IFS= read -r line; do
		eval "set -- $line"
		if ours "$@" || ! theirs "$@"; then
			echo "$line: $(cat refusal)"
			bad=1
		fi
	done
	return $bad
}

@test "machines, memory and processors: accepted by both" {
	both accept <<-'END'
		-machine q35
		-M pc-q35-7.2,usb=off,vmport=off,dump-guest-core=off,smm=off,hpet=off
		-machine type=microvm,rtc=on,x-option-roms=off
		-M q35 -M acpi=off
		-M q35,kernel_irqchip=on
		-M q35,kernel-irqchip=off
		-M q35,hpet=on
		-M q35 -no-hpet
		-M q35,acpi=auto,mem-merge=off,pic=on,pit=on,i8042=off
		-M q35 -m 512
		-M q35 -m 1.5G
		-M q35 -m size=64M
		-M q35 -m 128 -m 64
		-M q35 -m 0x40
		-M q35 -m 1G,maxmem=1G
		-M q35 -smp 4
		-M q35 -smp 0
		-M q35 -smp 0x4
		-M q35 -smp 4,sockets=2
		-M q35 -smp 4,sockets=0
		-M q35 -smp cores=2,threads=2
		-M q35 -smp 4,dies=2,clusters=1
		-M q35 -smp 8,maxcpus=8
		-M q35 -smp 4 -smp cores=2
		-M q35 -cpu max,-avx,avx=on
		-M q35 -cpu max,+sse4_1,sse4-2=off,xd=off,check=off
		-M q35 -cpu max,kvm=off,pmu=off,migratable=off,enforce=off
		-M q35 -cpu kvm64
		-M q35,memory-backend=m -object memory-backend-ram,id=m,size=128M
		-M q35,memory-backend=m -m 64 -object memory-backend-memfd,id=m,size=64M,share=on
	END
}

@test "machines, memory and processors: refused by both" {
	both refuse <<-'END'
		-M foo
		-M q35,foo=1
		-M q35,usb
		-M microvm,hpet=on
		-M q35,isa-serial=off
		-M microvm,vmport=off
		-M q35 -m foo
		-M q35 -m 1GB
		-M q35 -m 1.5
		-M q35 -m 1G,slots=2
		-M q35 -smp -1
		-M q35 -smp 1.5
		-M q35 -smp 1000
		-M q35 -smp 4,foo=1
		-M q35 -smp 4,cores=3
		-M q35 -smp 4,threads=8
		-M q35 -smp 4,maxcpus=2
		-M q35 -smp 4,clusters=2
		-M microvm -smp 4,dies=2
		-M q35 -cpu foo
		-M q35 -cpu qemu64,foo
		-M q35 -cpu qemu64,+foo
		-M q35,accel=foo
		-accel foo
		-M q35,memory-backend=m
		-M q35,memory-backend=m -m 128 -object memory-backend-ram,id=m,size=256M
	END
}

@test "the system and the process: accepted by both" {
	both accept <<-'END'
		-boot d
		-boot order=cdn,once=d,menu=on,strict=on
		-name a,process=b,debug-threads=on
		-uuid 550e8400-e29b-41d4-a716-446655440000
		-rtc base=utc,clock=vm
		-rtc base=localtime,driftfix=none
		-rtc base=2006-06-17
		-rtc base=2006-06-17T16:01:21
		-sandbox off
		--no-user-config --no-reboot -no-shutdown
		-d guest_errors,unimp
		-no-acpi
		-nic none
		-pidfile pid -D log
	END
}

@test "the system and the process: refused by both" {
	both refuse <<-'END'
		-foo
		-kernel
		-append x
		-initrd disk.img
		-boot foo
		-boot z
		-boot order=d,foo=1
		-boot menu=maybe
		-name guest=a,foo=b
		-uuid x
		-uuid {550e8400-e29b-41d4-a716-446655440000}
		-rtc utc
		-rtc base=foo
		-rtc clock=foo
		-display foo
		-sandbox foo
		-sandbox on,spawn=maybe
		-add-fd fd=1,set=1
		-add-fd set=1
		-d foo
	END
}

@test "devices, objects and disks: accepted by both" {
	both accept <<-'END'
		-M q35 -device virtio-rng-pci,addr=1e.1
		-M q35 -device virtio-rng,id=a -device id=b,driver=virtio-rng-pci
		-M q35 -device '{"driver":"virtio-rng-pci","addr":"5"}'
		-M q35 -device "{'driver':'virtio-rng-pci','id':'x'}"
		-M q35 -device virtio-rng-pci,rng=r -object rng-random,id=r
		-M q35 -device virtio-serial-pci -device virtconsole,chardev=c -chardev null,id=c
		-M q35 -device isa-debug-exit,iobase=0xf4,iosize=4 -device pvpanic
		-M q35 -device pcie-root-port,id=p,chassis=1 -device virtio-rng-pci,bus=p
		-M q35 -device virtio-balloon-pci,deflate-on-oom=on
		-object '{"qom-type":"iothread","id":"i"}'
		-object iothread,id=a,id=b
		-M q35 -drive file=disk.img,format=raw
		-M q35 -drive file=disk.img,format=raw,if=virtio,cache=none,aio=threads
		-M q35 -drive file=disk.img,format=raw,if=none,id=a -device virtio-blk-pci,drive=a,serial=x
		-M q35 -drive file=disk.img,format=raw,if=virtio,readonly=on,discard=unmap,detect-zeroes=off
		-M q35 -blockdev driver=file,node-name=f,filename=disk.img -device virtio-blk-pci,drive=f
		-M q35 -blockdev '{"driver":"raw","node-name":"r","file":{"driver":"file","filename":"disk.img"}}'
		-M q35 -hda disk.img
		-M q35 disk.img
	END
}

@test "devices, objects and disks: refused by both" {
	both refuse <<-'END'
		-M q35 -device foo
		-M q35 -device id=x
		-M q35 -device virtio-rng-pci,foo
		-M q35 -device virtio-rng-pci,foo=1
		-M q35 -device virtio-rng-pci,rng=x
		-M q35 -device virtio-rng-pci,addr=20
		-M q35 -device virtio-rng-pci,addr=1f.8
		-M q35 -device virtio-rng-pci,id=a -device virtio-rng-pci,id=a
		-M q35 -device virtio-rng-pci,id=1
		-M q35 -device '{"driver":"virtio-rng-pci"'
		-M q35 -device '{"driver":"virtio-rng-pci","foo":1}'
		-M q35 -device virtio-blk-pci
		-M q35 -device virtio-blk-pci,drive=b
		-object foo,id=a
		-object rng-random
		-object '{"qom-type":"iothread"}'
		-object iothread,id=a -object rng-builtin,id=a
		-object memory-backend-ram,id=m
		-object memory-backend-ram,id=m,size=0
		-drive if=foo,file=disk.img
		-drive file=disk.img,format=raw,foo=1
		-drive file=disk.img,format=raw,if=none,id=a -drive file=disk.img,format=raw,if=none,id=a
		-drive file=disk.img,format=raw,if=virtio,index=0 -drive file=disk.img,format=raw,if=virtio,index=0
		-blockdev node-name=r
	END
}

@test "network, character devices and monitors: accepted by both" {
	both accept <<-'END'
		-M q35 -netdev user,id=n -device virtio-net-pci,netdev=n,mac=52:54:00:12:34:56
		-M q35 -netdev '{"type":"user","id":"n"}' -device virtio-net,netdev=n
		-M q35 -nic user,model=virtio-net-pci,mac=52:54:00:12:34:57,id=n
		-chardev null,id=a
		-chardev null,id=x -mon x
		-chardev null,id=x -mon chardev=x,mode=control,pretty=on
		-chardev socket,id=x,path=sock,server=on,wait=off
		-chardev file,id=x,path=out,append=on
		-M q35 -serial none
		-M q35 -serial null -serial null -serial null -serial null
		-M q35 -serial chardev:x -chardev null,id=x
		-M q35 -serial file:a,b
		-M q35 -serial unix:sock,server,nowait
		-M q35 -serial mon:null
		-monitor none
		-monitor null
		-monitor unix:sock,server=on,wait=off
		-qmp null
		-qmp-pretty null
	END
}

@test "network, character devices and monitors: refused by both" {
	both refuse <<-'END'
		-netdev user
		-netdev foo,id=n
		-netdev user,id=1
		-netdev user,id=a -netdev user,id=a
		-nic foo
		-M q35 -nic user,model=foo
		-M q35 -device virtio-net-pci,netdev=n
		-net foo
		-chardev null
		-chardev null,id=1
		-chardev foo,id=a
		-chardev null,id=a -chardev null,id=a
		-mon chardev=x
		-chardev null,id=x -mon x,mode=foo
		-M q35 -serial foo
		-M q35 -serial chardev:x
		-monitor foo
		-qmp none
	END
}

# Each is in the man page, under DIFFERENCES FROM QEMU.
@test "what QEMU accepts and revirter refuses" {
	only_theirs <<-'END'
		-M pc
		-M q35,pic=off
		-M q35 -m 0
		-M q35 -m 1G,slots=2,maxmem=2G
		-M q35 -smp 2,maxcpus=4
		-M q35 -smp 128
		-rtc clock=rt
		-rtc driftfix=slew
		-M q35 -cdrom disk.img
		-M q35 -device e1000
		-M q35 -nic user,model=e1000
		-vga none
		-global virtio-net-pci.csum=off
	END
}

@test "-version begins as QEMU's does" {
	run "$revirter" -version
	[[ ${lines[0]} =~ ^"QEMU emulator version 7.2.0 (revirter "[0-9.]+")"$ ]]
}

@test "every device -device help names has its own help" {
	"$revirter" -device help >devices
	grep -q '^name "virtio-blk-pci", bus PCI, desc ' devices
	while IFS='"' read -r _ name _; do
		"$revirter" -device "$name,help" | grep -q "^$name options:"
	done <devices
}

@test "nothing is made for words that are only looked at" {
	ours -kernel k -drive file=new.img -qmp unix:q,server=on -pidfile pid -D log -serial file:out
	! ours -kernel k -drive file=new.img -qmp unix:q,server=on -pidfile pid -D log -device foo
	[ "$(ls)" = $'disk.img\ndump.json\nrefusal' ]
}

@test "what -x-dump-config prints is JSON" {
	ours -kernel k -nographic -m 1G -smp 4,sockets=2 -hda disk.img -nic user -name x -append 'a "b" \'
	python3 - <<-'END'
		import json
		d = json.load(open("dump.json"))
		assert d["memory"]["size"] == 1 << 30 and d["smp"]["sockets"] == 2 and d["name"] == "x"
		assert [x["driver"] for x in d["devices"]] == ["virtio-net-pci", "virtio-blk-pci"]
		assert d["monitors"][0]["chardev"] == d["serials"][0] == "serial0"
	END
}
