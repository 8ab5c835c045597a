# bash completion for revirter: options, and the names that -device and its like know, asked of revirter itself.

_revirter() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local program=${COMP_WORDS[0]}

	COMPREPLY=()
	case $prev in
	-device | -machine | -M | -cpu | -accel | -netdev | -chardev | -object)
		[[ $cur == *,* ]] && return
		# Lists come as `name "NAME", …`, as `x86 NAME …` and as `NAME  what it is`, under a heading.
		mapfile -t COMPREPLY < <(compgen -W "$("$program" "$prev" help 2>/dev/null |
			sed -n '/:$/d; s/^name "\([^"]*\)".*/\1/p; t; s/^x86 \([^ ]*\).*/\1/p; t
				s/^ *\([a-z][a-z0-9.-]*\)\(  .*\)\{0,1\}$/\1/p')" -- "$cur")
		return
		;;
	-gdb | -serial | -monitor | -qmp)
		compopt -o nospace
		mapfile -t COMPREPLY < <(compgen -W "none stdio pty unix: tcp: chardev:" -- "$cur")
		return
		;;
	-kernel | -initrd | -hda | -hdb | -pidfile | -D)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	esac
	[[ $cur == -* || -z $cur ]] || return
	mapfile -t COMPREPLY < <(compgen -W "$("$program" -h 2>/dev/null |
		sed -n 's/^  \(-[A-Za-z][a-z-]*\).*/\1/p')" -- "$cur")
}

complete -F _revirter revirter
