# shellcheck shell=bash
# What test/run and demo/run share: the packages, the unprivileged user, a
# throw-away work directory, the build, and cleaning up. To be sourced by a
# script that has set -euo pipefail. It never decides what is run or shown.
#
# Environment: PG_MAJOR (default 15) names the PostgreSQL to use; PG_CONFIG, if
# set, names the pg_config of a PostgreSQL that needs no package; KEEP=1 keeps
# the work directory; JOB_TIMEOUT limits one job, in seconds (default 3000);
# REHOME_CACHE is the directory of what takes long to make and can be made again
# (default /var/cache/pg_rehome, or below the home of a user who is not root).

PG_MAJOR=${PG_MAJOR:-15}
JOB_TIMEOUT=${JOB_TIMEOUT:-3000}
work=
as_user=()
jobs_running=()
# Directories outside of $work that are to go with it.
rubbish=()

say() {
	printf '%s\n' "$*"
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

is_root() {
	[ "$(id -u)" = 0 ]
}

# as_root COMMAND...: runs it as root, through sudo where we are someone else.
as_root() {
	if is_root; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo env ${ASAN_OPTIONS:+"ASAN_OPTIONS=$ASAN_OPTIONS"} "$@"
	else
		die "this needs root, and there is no sudo: $*"
	fi
}

# clean_environment: forgets every libpq setting of the caller, so that nothing
# here can reach a server that we did not start, and fixes the locale.
clean_environment() {
	local name
	if is_root; then
		REHOME_CACHE=${REHOME_CACHE:-/var/cache/pg_rehome}
	else
		REHOME_CACHE=${REHOME_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pg_rehome}
	fi
	for name in ${!PG@}; do
		case $name in
			PG_MAJOR | PG_CONFIG | PG_TEST_*) ;;
			*) unset "$name" ;;
		esac
	done
	unset MAKEFLAGS MAKELEVEL PERL5OPT PROVE_TESTS PROVE_FLAGS PROVE_PASSWORD
	export LANG=C.UTF-8 LC_ALL=C.UTF-8
}

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# apt_install PACKAGE...: apt-get install, heard only if it fails.
apt_install() {
	local log status=0
	log=$(mktemp)
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" \
		</dev/null >"$log" 2>&1 || status=$?
	if [ "$status" != 0 ]; then
		tail -n 30 "$log" >&2
	fi
	rm -f "$log"
	return "$status"
}

# need_packages PACKAGE...: installs those that are missing. A server package
# would make and start a cluster of its own: postgresql-common is told not to
# for as long as the installation runs.
need_packages() {
	local package missing=() conf=/etc/postgresql-common/createcluster.conf saved='' status=0

	for package in "$@"; do
		installed "$package" || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null ||
		die "missing, and there is no apt-get to install them: ${missing[*]}"

	say "installing by apt-get: ${missing[*]}"
	as_root apt-get update -qq </dev/null || die "apt-get update failed"
	for package in "${missing[@]}"; do
		[ -n "$(apt-cache madison "$package")" ] ||
			die "apt-get does not know $package (for PostgreSQL $PG_MAJOR, add the PGDG apt repository, or set PG_MAJOR or PG_CONFIG)"
	done
	if [[ " ${missing[*]} " == *" postgresql-$PG_MAJOR "* ]]; then
		apt_install postgresql-common || die "apt-get install postgresql-common failed"
		saved=$(mktemp)
		cat "$conf" >"$saved"
		(cat "$saved" && say 'create_main_cluster = false') | as_root tee "$conf" >/dev/null
	fi
	apt_install "${missing[@]}" || status=$?
	if [ -n "$saved" ]; then
		as_root tee "$conf" <"$saved" >/dev/null
		rm -f "$saved"
	fi
	[ "$status" = 0 ] || die "apt-get install failed: ${missing[*]}"
}

# need_postgres [PACKAGE...]: the compiler, PostgreSQL and the packages named;
# sets PG_CONFIG and bindir. With PG_CONFIG given, PostgreSQL itself is
# taken as it stands.
need_postgres() {
	if [ -n "${PG_CONFIG:-}" ]; then
		need_packages build-essential "$@"
	else
		need_packages build-essential "postgresql-$PG_MAJOR" "postgresql-server-dev-$PG_MAJOR" "$@"
		PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
	fi
	[ -x "$PG_CONFIG" ] || die "no pg_config at $PG_CONFIG"
	export PG_CONFIG
	bindir=$("$PG_CONFIG" --bindir)
	export PATH=$bindir:$PATH
}

# make_work NAME: makes $work, a fresh directory owned by the user whom the
# servers run as (PostgreSQL refuses root), and has it cleaned up at exit.
make_work() {
	local base=${TMPDIR:-/tmp} user=

	if is_root; then
		user=nobody
		if id postgres >/dev/null 2>&1; then
			user=postgres
		fi
		# Not runuser: signals are to reach the command itself, at once.
		as_user=(setpriv --reuid="$user" --regid="$(id -gn "$user")" --init-groups --)
		# A private TMPDIR of root is of no use to another user.
		"${as_user[@]}" test -x "$base" || base=/tmp
	fi
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	work=$(mktemp -d "$base/pg_rehome.$1.XXXXXX")
	mkdir "$work/home" "$work/log" "$work/tmp" "$work/tree"
	if is_root; then
		chown -R "$user:" "$work"
	fi
	# Short enough for the unix sockets that the tests put below it.
	export HOME=$work/home TMPDIR=$work/tmp
}

# copy_tree FROM TO: the files that git tracks, and those that it neither
# tracks nor ignores; without git, everything but what a build leaves behind.
copy_tree() {
	local from=$1 to=$2 list=$work/log/files
	local git=(git -c "safe.directory=$from" -C "$from")

	if command -v git >/dev/null &&
		[ "$("${git[@]}" rev-parse --show-toplevel 2>/dev/null)" = "$from" ]; then
		# A file deleted but not yet committed is listed and not there.
		"${git[@]}" ls-files -z --cached --others --exclude-standard |
			while IFS= read -r -d '' file; do
				if [ -e "$from/$file" ] || [ -L "$from/$file" ]; then
					printf '%s\0' "$file"
				fi
			done >"$list"
	else
		(cd "$from" && find . \( -name .git -o -name tmp_check -o -name tmp_check_iso -o -name results \
			-o -name output_iso -o -name 'regression.*' -o -name '*.o' -o -name '*.so' -o -name '*.bc' \
			-o -name '*.sql.h' \) -prune -o ! -type d -print0) >"$list"
	fi
	tar -C "$from" --null --no-recursion -T "$list" -cf - | tar -C "$to" --no-same-owner -xf -
	if is_root; then
		chown -R --reference="$work" "$to"
	fi
}

# build TREE LOG [MAKE ARGUMENT...]: compiles, as the unprivileged user.
build() {
	local tree=$1 log=$2
	shift 2
	run_job "$tree" "$log" make -j"$(nproc)" PG_CONFIG="$PG_CONFIG" "$@"
}

# install_built TREE LOG [MAKE ARGUMENT...]: make install, as root unless the
# installation belongs to us.
install_built() {
	local tree=$1 log=$2 command
	shift 2
	command=(make -s -C "$tree" install PG_CONFIG="$PG_CONFIG" "$@")
	if [ -w "$("$PG_CONFIG" --pkglibdir)" ] && [ -w "$("$PG_CONFIG" --sharedir)/extension" ]; then
		"${command[@]}" >>"$log" 2>&1
	else
		as_root "${command[@]}" >>"$log" 2>&1
	fi
}

# run_job DIR LOG COMMAND...: runs it in DIR as the unprivileged user, in a
# process group of its own that clean_up can end whole, under JOB_TIMEOUT; its
# output goes to LOG and, unless QUIET is set, to us as it comes.
run_job() {
	local dir=$1 log=$2 pid follower='' status=0 offset tries
	shift 2

	: >>"$log"
	offset=$(($(stat -c %s "$log") + 1))
	set -m
	(cd "$dir" && exec timeout --kill-after=30 "$JOB_TIMEOUT" "${as_user[@]}" "$@") </dev/null >>"$log" 2>&1 &
	pid=$!
	set +m
	jobs_running=("$pid")
	if [ -z "${QUIET:-}" ]; then
		tail -c "+$offset" -s 0.2 -f --pid="$pid" "$log" &
		follower=$!
	fi
	wait "$pid" || status=$?
	if [ -n "$follower" ]; then
		wait "$follower"
	fi
	# A server that has been stopped may take a moment more to be gone.
	for ((tries = 0; tries < 50; tries++)); do
		kill -0 -- "-$pid" 2>/dev/null || break
		sleep 0.1
	done
	if kill -TERM -- "-$pid" 2>/dev/null; then
		say "it left processes behind, which are ended now: $*" | tee -a "$log"
	fi
	jobs_running=()
	if [ "$status" = 124 ]; then
		say "ended after $JOB_TIMEOUT s: $*" | tee -a "$log"
	fi
	return "$status"
}

# init_server DIR [CONFIGURATION LINE...]: a throw-away cluster, superuser
# postgres, with its socket in DIR and no TCP unless the lines say so.
init_server() {
	local dir=$1
	shift
	"${as_user[@]}" mkdir "$dir"
	"${as_user[@]}" "$bindir/initdb" -D "$dir/data" -U postgres -A trust --no-locale -E UTF8 -N >"$work/log/initdb.log" 2>&1 ||
		{ cat "$work/log/initdb.log" >&2; die "initdb failed"; }
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$dir'" "$@" |
		"${as_user[@]}" tee -a "$dir/data/postgresql.conf" >/dev/null
}

start_server() {
	"${as_user[@]}" "$bindir/pg_ctl" -D "$1/data" -l "$1/server.log" -w -s start >&2 ||
		{ tail -n 30 "$1/server.log" >&2; die "the server in $1 did not start"; }
}

# stop_servers: ends every server whose data directory is below $work, whoever
# started it: a test that was killed leaves its own behind.
stop_servers() {
	local pidfile pid
	while IFS= read -r -d '' pidfile; do
		pid=$(head -n 1 "$pidfile")
		if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null &&
			! "${as_user[@]}" "$bindir/pg_ctl" -D "$(dirname "$pidfile")" -m immediate -w -s stop; then
			say "a server is still running: process $pid, ${pidfile%/*}" >&2
		fi
	done < <(find "$work" -name postmaster.pid -print0)
}

clean_up() {
	local status=$? pid
	trap - EXIT
	trap '' INT TERM HUP
	set +e
	for pid in "${jobs_running[@]}"; do
		if kill -TERM -- "-$pid" 2>/dev/null; then
			wait "$pid" 2>/dev/null
		fi
	done
	rm -rf --one-file-system "${rubbish[@]}"
	if [ -n "$work" ] && [ -d "$work" ]; then
		if [ -n "${bindir:-}" ]; then
			stop_servers
		fi
		cd /
		if [ -n "${KEEP:-}" ]; then
			say "kept: $work"
		else
			rm -rf "$work"
		fi
	fi
	exit "$status"
}
