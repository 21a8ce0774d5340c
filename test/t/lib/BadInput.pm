# BadInput: what 210_bad_input.pl needs to try wrong calls and wrong situations
# as data: the cases, read from a file; a watch over everything in a database;
# servers that speak nonsense; a disk that is full.
package BadInput;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use RehomeTest;

our @EXPORT = qw(
  read_cases
  watch
  changed
  unwatch
  start_bad_servers
  stop_bad_servers
  build_full_disk
  tidy
);

=pod

=head1 Cases

=over

=item read_cases($file)

The cases of a file, in order: {state, name, line, sql, expected, and what the
lines before the SQL say}. A case is

	== name
	key: value
	SQL
	--
	42710: primary message
	DETAIL: ...
	HINT: ...
	CHANGED: what may be different afterwards

where a line that begins with a space continues the value before it. "@ state"
begins the cases of a state, and a line with # is a comment.

=cut

my %known_key = map { $_ => 1 } qw(as at db on source target undo_source undo_target
  block_source block_target parked meanwhile_source meanwhile_target disk);

sub read_cases
{
	my ($file) = @_;
	my (@cases, $state, $case, $part, $key);
	my $number = 0;
	for my $line (split /\n/, slurp_file($file))
	{
		$number++;
		next if $line =~ /^#/;
		if ($line =~ /^@ (.*)/)
		{
			($state, $case) = ($1, undef);
		}
		elsif ($line =~ /^== (.*)/)
		{
			$case = { state => $state, name => $1, line => $number, sql => '', expected => '' };
			push @cases, $case;
			($part, $key) = ('keys', undef);
		}
		elsif ($line eq '--' && $case)
		{
			$part = 'expected';
		}
		elsif ($line eq '')
		{
			next;
		}
		elsif (!$case)
		{
			croak "$file:$number: not in a case: $line";
		}
		elsif ($part eq 'expected')
		{
			$case->{expected} .= "$line\n";
		}
		elsif ($part eq 'keys' && $line =~ /^([a-z_]+): (.*)/ && $known_key{$1})
		{
			$key = $1;
			$case->{$key} = $2;
		}
		elsif ($part eq 'keys' && defined $key && $line =~ /^\s+(.*)/)
		{
			$case->{$key} .= "\n$1";
		}
		else
		{
			$part = 'sql';
			$case->{sql} .= "$line\n";
		}
	}
	for (@cases)
	{
		croak "$file:$_->{line}: case \"$_->{name}\" is not complete" if $_->{sql} eq '' || $_->{expected} eq '' || !defined $_->{state};
	}
	return @cases;
}

=pod

=item tidy($text)

A message without what differs from run to run: ports, paths, process and object
numbers, tokens, positions, times.

=cut

sub tidy
{
	my ($text) = @_;
	$text =~ s/\bport \d+/port <port>/g;
	$text =~ s/\bpid \d+/pid <pid>/g;
	$text =~ s/\bOID \d+/OID <oid>/g;
	$text =~ s/\b\d{10,}(?:\/[0-9A-F]+){1,2}\b/<identity>/g;
	$text =~ s/\btransaction for (?:\d+ days? )?\d\d:\d\d:\d\d(?:\.\d+)?/transaction for <time>/g;
	$text =~ s/\b\d+:\d+:(?:\d+(?:,\d+)*)?/<position>/g;
	$text =~ s/\b\d+ ms had passed/<n> ms had passed/g;
	$text =~ s/\btoken = '[0-9a-f]{8}' AND slice = \d+/token = '<token>' AND slice = <slice>/g;
	$text =~ s/\bchange_\d+/change_<n>/g;
	$text =~ s/\bin transaction \d+/in transaction <xid>/g;
	$text =~ s/\b(change|stage|capture|fence)_[0-9a-f]{8}_\d+/$1_<token>/g;
	$text =~ s/\brehome_[0-9a-f]{8}_/rehome_<token>_/g;
	$text =~ s/\bset_fence\('[0-9a-f]{8}', \d+/set_fence('<token>', <slice>/g;
	# What versions say differently: from 16 on, a regclass in no schema; then the
	# name of a setting, and the unit of its range.
	$text =~ s/^42P01: relation "nothing\.[^"]*" does not exist/3F000: schema "nothing" does not exist/gm;
	$text =~ s/exceeds "temp_file_limit"/exceeds temp_file_limit/g;
	$text =~ s/(is outside the valid range for parameter "[^"]*") \((\d+)(?: \w+)? \.\. (\d+)(?: \w+)?\)/$1 ($2 .. $3)/g;
	$text =~ s/\bpg_tblspc\/[^"]+/pg_tblspc\/<file>/g;
	$text =~ s/(connection to server at [^\n]*)\n\1/$1/g;
	$text =~ s/\bExisting migrations: .*/Existing migrations: <names>./g;
	$text =~ s/\b(could not translate host name .* to address): .*/$1: <reason>/g;
	$text =~ s/\bsocket "[^"]*"/socket "<socket>"/g;
	return $text;
}

=pod

=item watch($node, $dbname)

A session that knows what everything in the database looks like: the rows of all
tables but temporary ones, values of sequences, and the catalogs, down to rights
and comments. What a batch goes on with by itself (position, numbers of rows) is
an object of its own, "progress of rehome.slice" or "of rehome_source.slice". Numbers that rehome's own
sequences have given away are not looked at. Unlogged tables must not be there.

=item changed($watch)

The objects that are other than at the last call (or at the start), as one text.

=item unwatch($watch)

Ends it.

=back

=cut

my $look = <<'EOS';
SET client_min_messages = warning;
CREATE TEMP TABLE seen (object text, print text);
CREATE FUNCTION pg_temp.look() RETURNS TABLE (object text, print text) LANGUAGE plpgsql AS $look$
DECLARE
	r	record;
BEGIN
	FOR r IN SELECT c.oid::regclass AS name, c.relkind, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	          WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'm', 'S') LOOP
		IF r.relkind = 'S' AND r.nspname = 'rehome' THEN
			CONTINUE;
		ELSIF r.relkind = 'S' THEN
			RETURN QUERY EXECUTE format('SELECT %L, last_value || '' '' || is_called FROM %s', 'sequence ' || regexp_replace(r.name::text, '_[0-9a-f]{8}_', '_token_'), r.name);
		ELSIF r.name = to_regclass('rehome.slice') THEN
			RETURN QUERY
				SELECT 'rows of rehome.slice', md5(string_agg(concat_ws('|', id, migration_id, name, filter, state, authority, database_id, continuous, one_way, paused, coalesce(reason, '-'), coalesce(error, '-'), state_since), E'\n' ORDER BY id))
				  FROM rehome.slice
				UNION ALL
				SELECT 'progress of rehome.slice', md5(string_agg(concat_ws('|', id, position, position_at, source_print, target_print, maps_version, pending, rows_applied, batches), E'\n' ORDER BY id))
				  FROM rehome.slice;
		ELSIF r.name = to_regclass('rehome_source.slice') THEN
			RETURN QUERY
				SELECT 'rows of rehome_source.slice', md5(string_agg(concat_ws('|', token, slice, authority, coalesce(holder, '-'), holder_xid), E'\n' ORDER BY token, slice))
				  FROM rehome_source.slice
				UNION ALL
				SELECT 'progress of rehome_source.slice', md5(string_agg(concat_ws('|', token, slice, coalesce(pruned, '-'), reverse_position), E'\n' ORDER BY token, slice))
				  FROM rehome_source.slice;
		ELSE
			RETURN QUERY EXECUTE format('SELECT %L, md5(string_agg(t::text, E''\n'' ORDER BY t::text)) FROM %s t', 'rows of ' || r.name, r.name);
		END IF;
	END LOOP;
	RETURN QUERY
	WITH mine AS (
		SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	)
	SELECT 'relation ' || oid::regclass, md5(concat_ws('|', oid, relname, reltype, relowner, relam, relfilenode, reltablespace, relhasindex, relpersistence, relkind, relnatts, relhasrules, relhastriggers, relrowsecurity, relforcerowsecurity, relreplident, relispartition, relacl, reloptions, relpartbound))
	  FROM pg_class WHERE oid IN (SELECT * FROM mine)
	UNION ALL
	SELECT 'columns of ' || attrelid::regclass, md5(string_agg(concat_ws('|', attnum, attname, atttypid, atttypmod, attnotnull, atthasdef, attidentity, attgenerated, attisdropped, attstattarget, attstorage, attcollation, attacl, attoptions, attfdwoptions, pg_get_expr(d.adbin, d.adrelid)), E'\n' ORDER BY attnum))
	  FROM pg_attribute LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum WHERE attrelid IN (SELECT * FROM mine) GROUP BY attrelid
	UNION ALL
	SELECT 'triggers of ' || tgrelid::regclass, md5(string_agg(oid || tgname || tgenabled::text || pg_get_triggerdef(oid), E'\n' ORDER BY oid))
	  FROM pg_trigger WHERE tgrelid IN (SELECT * FROM mine) GROUP BY tgrelid
	UNION ALL
	SELECT 'constraints of ' || conrelid::regclass, md5(string_agg(concat_ws('|', oid, conname, convalidated, pg_get_constraintdef(oid)), E'\n' ORDER BY oid))
	  FROM pg_constraint WHERE conrelid IN (SELECT * FROM mine) AND contype <> 'n' GROUP BY conrelid -- columns tell that
	UNION ALL
	SELECT 'indexes of ' || indrelid::regclass, md5(string_agg(concat_ws('|', indexrelid, indisvalid, indisready, indisclustered, indisreplident, pg_get_indexdef(indexrelid)), E'\n' ORDER BY indexrelid))
	  FROM pg_index WHERE indrelid IN (SELECT * FROM mine) GROUP BY indrelid
	UNION ALL
	SELECT 'rules of ' || ev_class::regclass, md5(string_agg(oid || pg_get_ruledef(oid), E'\n' ORDER BY oid))
	  FROM pg_rewrite WHERE ev_class IN (SELECT * FROM mine) GROUP BY ev_class
	UNION ALL
	SELECT 'policies of ' || polrelid::regclass, md5(string_agg(to_jsonb(p)::text, E'\n' ORDER BY oid))
	  FROM pg_policy p GROUP BY polrelid
	UNION ALL
	SELECT 'function ' || p.oid::regprocedure, md5(concat_ws('|', p.oid, proowner, proacl, proconfig, prosecdef, provolatile, prosrc))
	  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	UNION ALL
	SELECT 'schema ' || nspname, md5(concat_ws('|', oid, nspowner, nspacl)) FROM pg_namespace WHERE nspname !~ '^pg_'
	UNION ALL
	SELECT 'inheritance', md5(string_agg(concat_ws('|', inhrelid, inhparent, inhseqno), E'\n' ORDER BY inhrelid, inhparent)) FROM pg_inherits
	UNION ALL
	SELECT 'types', md5(string_agg(oid || typname || typowner || coalesce(typacl::text, '-'), E'\n' ORDER BY oid)) FROM pg_type WHERE typnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_')
	UNION ALL
	SELECT 'foreign tables', md5(string_agg(to_jsonb(f)::text, E'\n' ORDER BY ftrelid)) FROM pg_foreign_table f
	UNION ALL
	SELECT 'server ' || srvname, md5(to_jsonb(s)::text) FROM pg_foreign_server s
	UNION ALL
	SELECT 'user mappings', md5(string_agg(to_jsonb(u)::text, E'\n' ORDER BY oid)) FROM pg_user_mapping u
	UNION ALL
	SELECT 'roles', md5(string_agg(concat_ws('|', oid, rolname, rolsuper, rolcanlogin, rolconfig), E'\n' ORDER BY oid)) FROM pg_roles
	UNION ALL
	SELECT 'memberships', md5(string_agg(to_jsonb(m)::text, E'\n' ORDER BY roleid, member)) FROM pg_auth_members m
	UNION ALL
	SELECT 'comments', md5(string_agg(to_jsonb(d)::text, E'\n' ORDER BY classoid, objoid, objsubid)) FROM pg_description d WHERE objoid >= 16384
	UNION ALL
	SELECT 'extensions', md5(string_agg(to_jsonb(e)::text, E'\n' ORDER BY oid)) FROM pg_extension e
	UNION ALL
	SELECT 'large objects', count(*)::text FROM pg_largeobject_metadata
	UNION ALL
	SELECT 'prepared transactions', count(*)::text FROM pg_prepared_xacts
	UNION ALL
	SELECT 'settings of databases and roles', md5(string_agg(to_jsonb(s)::text, E'\n' ORDER BY setdatabase, setrole)) FROM pg_db_role_setting s;
END
$look$;
CREATE FUNCTION pg_temp.changed() RETURNS text LANGUAGE plpgsql AS $changed$
DECLARE
	different text;
BEGIN
	CREATE TEMP TABLE now AS SELECT * FROM pg_temp.look();
	SELECT string_agg(object, ', ' ORDER BY object COLLATE "C") INTO different
	  FROM seen FULL JOIN now USING (object) WHERE seen.print IS DISTINCT FROM now.print;
	DROP TABLE seen;
	ALTER TABLE now RENAME TO seen;
	RETURN coalesce(different, '');
END
$changed$;
EOS

sub watch
{
	my ($node, $dbname) = @_;
	my $session = $node->background_psql($dbname, on_error_stop => 0);
	$session->set_query_timer_restart;
	$session->query_safe($look);
	my $watch = { node => $node, session => $session, lsn => '' };
	changed($watch);
	return $watch;
}

sub changed
{
	my ($watch) = @_;
	my $session = $watch->{session};
	# A server that has logged nothing has changed nothing.
	return '' if $session->query_safe('SELECT pg_current_wal_insert_lsn()') eq $watch->{lsn};
	my $changed = $session->query_safe('SELECT pg_temp.changed()');
	$watch->{lsn} = $session->query_safe('SELECT pg_current_wal_insert_lsn()');
	return tidy($changed);
}

sub unwatch
{
	my ($watch) = @_;
	$watch->{session}->quit;
	return;
}

=pod

=head1 Bad servers

=over

=item start_bad_servers($port)

A process that listens on ports of 127.0.0.1 and behaves on each in another way;
returns {name => port}. Those that pass everything on to the port given do so
until the word PROVOKE comes from there, with the row that has it.

  http      answers everything as a web server would
  closing   closes at once
  silent    accepts and never says a word
  cut       passes on, up to the word; then closes
  garbled   passes on, and puts garbage in the place of the word and what follows
  stalled   passes on, up to the word; then keeps everything to itself

=item stop_bad_servers

Ends it.

=cut

my $bad_servers;

sub start_bad_servers
{
	my ($source) = @_;
	my (%listener, %port);
	for my $name (qw(http closing silent cut garbled stalled))
	{
		$listener{$name} = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp', Listen => 20)
		  or croak "cannot listen: $@";
		$port{$name} = $listener{$name}->sockport;
	}
	$bad_servers = fork // croak "cannot fork: $!";
	if (!$bad_servers)
	{
		local $SIG{PIPE} = 'IGNORE';
		_serve_badly(\%listener, $source);
	}
	close $_ for values %listener;
	return \%port;
}

sub stop_bad_servers
{
	return unless $bad_servers;
	kill 'KILL', $bad_servers;
	waitpid $bad_servers, 0;
	undef $bad_servers;
	return;
}

sub _serve_badly
{
	my ($listener, $source) = @_;
	my $select = IO::Select->new(values %$listener);
	my %name = map { $listener->{$_} => $_ } keys %$listener;
	my %end;    # of a connection: {name, peer, from_source, stalled}
	my $drop = sub {
		for my $socket (grep { defined } @_)
		{
			$select->remove($socket);
			delete $end{$socket};
			close $socket;
		}
	};
	my $test = getppid;
	while (getppid == $test)
	{
		for my $socket ($select->can_read(1))
		{
			if (my $name = $name{$socket})
			{
				my $client = $socket->accept or next;
				if ($name eq 'closing')
				{
					close $client;
					next;
				}
				$select->add($client);
				$end{$client} = { name => $name };
				next if $name eq 'http' || $name eq 'silent';
				my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $source, Proto => 'tcp');
				if (!$server)
				{
					$drop->($client);
					next;
				}
				$select->add($server);
				$end{$client}{peer} = $server;
				$end{$server} = { name => $name, peer => $client, from_source => 1 };
				next;
			}
			my $end = $end{$socket} or next;
			my $n = sysread $socket, my $data, 65536;
			if (!$n)
			{
				$drop->($socket, $end->{peer});
			}
			elsif ($end->{name} eq 'http')
			{
				syswrite $socket, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
				$drop->($socket);
			}
			elsif ($end->{peer} && !$end->{stalled})
			{
				my $at = $end->{from_source} ? index($data, 'PROVOKE') : -1;
				my $bad = $at >= 0;
				$data = substr $data, 0, $at if $bad;
				$data .= "\x00\xff" x 2000 if $bad && $end->{name} eq 'garbled';
				my $sent = 0;
				while ($sent < length $data)
				{
					my $wrote = syswrite $end->{peer}, $data, length($data) - $sent, $sent;
					last unless $wrote;
					$sent += $wrote;
				}
				if ($bad && $end->{name} eq 'stalled')
				{
					$end->{stalled} = 1;
				}
				elsif ($bad)
				{
					$drop->($end->{peer}, $socket);
				}
			}
		}
	}
	POSIX::_exit(0);
}

=pod

=item build_full_disk($dir)

Compiles test/fixtures/bad_input.c into the directory and returns the path of
the library, to be preloaded into a server.

=back

=cut

sub build_full_disk
{
	my ($dir) = @_;
	my $library = "$dir/full_disk.so";
	my ($output, $errors) =
	  run_command([ 'cc', '-shared', '-fPIC', '-o', $library, fixture('bad_input.c'), '-ldl' ]);
	croak "cannot compile bad_input.c: $errors" unless -e $library;
	return $library;
}

END
{
	my $status = $?;
	stop_bad_servers();
	$? = $status;
}

1;
