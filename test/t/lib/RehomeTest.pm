# RehomeTest: two clusters, a source and a target, for the TAP tests.
#
#   use RehomeTest;
#   my $pair = new_pair(shop => 1);
#   my ($source, $target) = ($pair->source, $pair->target);
#   $pair->sql_target(q{SELECT rehome.create_migration('m', 'src', 'a test')});
#   ok($pair->wait_for_state('m', 'syncing'), 'in sync');
#   same_content($pair, $pair->shop_tables, 'all of the shop');
#
# The clusters are PostgreSQL::Test::Cluster objects (RehomeNode) and stay usable as such.
# The functions that touch only one of them take it as their first argument.
package RehomeTest;

use strict;
use warnings;

use Carp;
use DBI;
use Exporter 'import';
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RehomeNode;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(
  new_pair
  wait_until
  same_content
  sqlstate_of
  error_of
  start_pgbench
  pgbench_running
  stop_pgbench
  finish_pgbench
  start_psql
  psql_running
  finish_psql
  hold_lock
  wait_for_lock_waiter
  debug_lock
  kill_server
  kill_and_start
  fixture
  schema_dump
  sequence_values
  catalog_state
);

# The role that a pair connects to its source with, if one is asked for.
my $source_role     = 'rehome_src';
my $source_password = q{a password, with 'quotes' in it};

# The advisory lock by which stop_pgbench ends a load: see start_pgbench.
my $stop_lock = 7206553;

# What a server says of a session that has not let go of what it used.
my $leak = qr/WARNING: \s+(?:temporary\ file\ leak|buffer\ refcount\ leak|.*\ reference\ leak|resource\ was\ not\ closed
	|transaction\ left\ non-empty\ SPI\ stack|snapshot\ .*\ still\ active)/x;

my $writers = 0;
my $calls   = 0;
my @nodes;

=pod

=head1 A pair

=over

=item new_pair(%options)

Makes and starts both clusters, and on the target the extension, the foreign
server C<src> and a user mapping for the current user. Options:

  dbname        => 'postgres'  the database on both sides
  prefix        => ''          put before the clusters' names, for a second pair
  fsync         => 0           1 where the test crashes a machine, not a process
  preload       => 0           1: shared_preload_libraries and rehome.databases on the target
  role          => 0           1: a role without superuser rights, with a password, on the source
  tcp           => 0           1: the source listens on 127.0.0.1 too and src connects to that
  shop          => 0           1: test/fixtures/shop_*.sql, the schema on both sides, the data on the source
  scale         => 1           of the shop's data
  extension     => 1           0: no CREATE EXTENSION (and so no server)
  server        => 'src'       undef: no server
  server_options => {}         further options of it
  source_conf, target_conf => ''   lines for postgresql.conf
  init          => {}          further arguments of PostgreSQL::Test::Cluster's init

The source runs the PostgreSQL whose programs are in the directory
SOURCE_PG_BINDIR of the environment, if it is set.

=cut

sub new_pair
{
	my (%given) = @_;
	my %option = (
		dbname         => 'postgres',
		prefix         => '',
		extension      => 1,
		server         => 'src',
		server_options => {},
		source_conf    => '',
		target_conf    => '',
		scale          => 1,
		init           => {},
		map { $_ => 0 } qw(fsync preload role tcp shop));
	for my $name (keys %given)
	{
		croak "new_pair has no option \"$name\"" unless exists $option{$name};
		$option{$name} = $given{$name};
	}

	my $self = bless {%option}, __PACKAGE__;
	# The tables are small, and are to be loaded as large ones are.
	my %conf = (
		source => $option{source_conf},
		target => "rehome.chunk_time = 0\nrehome.keep_indexes_below = 0\n$option{target_conf}");
	$conf{source} .= "\nlisten_addresses = '127.0.0.1'" if $option{tcp};
	$conf{target} .=
	  "\nshared_preload_libraries = 'pg_rehome'\nrehome.databases = '$option{dbname}'"
	  if $option{preload};

	for my $side (qw(source target))
	{
		my $node = RehomeNode->new("$option{prefix}$side",
			$side eq 'source' && $ENV{SOURCE_PG_BINDIR} ? (install_path => dirname($ENV{SOURCE_PG_BINDIR})) : ());
		# Whatever the caller's locale: the fixtures need UTF-8.
		$node->init(extra => [ '--no-locale', '-E', 'UTF8' ], %{ $option{init} });
		$node->append_conf('postgresql.conf',
			# scram is what pg_hba.conf asks for, and not the default before 14.
			"log_statement = ddl\nautovacuum_naptime = 10s\npassword_encryption = 'scram-sha-256'\n"
			  . ($option{fsync} ? "fsync = on\n" : '')
			  # A recovery that asks for every single file takes long here.
			  . ($option{fsync} && $node->pg_version >= 14 ? "recovery_init_sync_method = syncfs\n" : '')
			  . $conf{$side});
		$self->{$side} = $node;
		push @nodes, $node;
	}
	$self->_ask_for_password if $option{role};

	for my $side (qw(source target))
	{
		$self->{$side}->start;
		$self->{$side}->safe_psql('postgres', "CREATE DATABASE $option{dbname}")
		  if $option{dbname} ne 'postgres';
	}
	$self->load_shop if $option{shop};
	$self->_create_source_role if $option{role};
	if ($option{extension})
	{
		$self->sql_target('CREATE EXTENSION pg_rehome CASCADE');
		$self->create_server($option{server}) if defined $option{server};
	}
	return $self;
}

sub source { return $_[0]{source} }
sub target { return $_[0]{target} }
sub dbname { return $_[0]{dbname} }

# As SHOW server_version_num; what the source lacks, neither side gets.
sub source_version { my ($self) = @_; return $self->{source_version} //= $self->sql_source('SHOW server_version_num') }

=pod

=item $pair->sql_source($sql), $pair->sql_target($sql)

Run it there and return its output; an error is the end of the test.

=cut

sub sql_source { my ($self, $sql, %more) = @_; return $self->source->safe_psql($self->dbname, $sql, %more) }
sub sql_target { my ($self, $sql, %more) = @_; return $self->target->safe_psql($self->dbname, $sql, %more) }

# Whoever connects as the source role gives its password, by socket and by TCP;
# the lines go before those that trust everyone.
sub _ask_for_password
{
	my ($self) = @_;
	my $file = $self->source->data_dir . '/pg_hba.conf';
	my $rest = slurp_file($file);
	open my $fh, '>', $file or die "cannot write $file: $!";
	print $fh "local all $source_role scram-sha-256\n";
	print $fh "host all $source_role 127.0.0.1/32 scram-sha-256\n";
	print $fh $rest;
	close $fh or die "cannot write $file: $!";
	return;
}

sub _create_source_role
{
	my ($self) = @_;
	my $password = _literal($source_password);
	$self->sql_source("CREATE ROLE $source_role LOGIN PASSWORD $password");
	$self->grant_source($_)
	  for split /\n/, $self->sql_source(q{
		SELECT nspname FROM pg_namespace
		 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'});
	return;
}

=pod

=item $pair->grant_source($schema, [$role])

Gives the role what a migration of the schema needs on the source, and no more.

=cut

sub grant_source
{
	my ($self, $schema, $role) = @_;
	$role //= $source_role;
	$schema = _identifier($schema);
	my $database = _identifier($self->dbname);
	$self->sql_source(qq{
		GRANT CREATE ON DATABASE $database TO $role;
		GRANT USAGE ON SCHEMA $schema TO $role;
		GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON ALL TABLES IN SCHEMA $schema TO $role;
		GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA $schema TO $role;
	});
	return;
}

=pod

=item $pair->create_server($name)

A foreign server on the target that leads to the source, with the user mapping.

=cut

sub create_server
{
	my ($self, $name) = @_;
	my %server = (
		host   => $self->{tcp} ? '127.0.0.1' : $self->source->host,
		port   => $self->source->port,
		dbname => $self->dbname,
		%{ $self->{server_options} });
	my %user = $self->{role}
	  ? (user => $source_role, password => $source_password)
	  : (user => $self->sql_source('SELECT current_user'));
	$name = _identifier($name);
	$self->sql_target(
		"CREATE SERVER $name FOREIGN DATA WRAPPER postgres_fdw OPTIONS (" . _options(%server) . ");\n"
		  . "CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (" . _options(%user) . ")");
	return;
}

=pod

=item $pair->import_foreign_schema($remote, $local, [@tables])

IMPORT FOREIGN SCHEMA into a schema that is made for it.

=cut

sub import_foreign_schema
{
	my ($self, $remote, $local, @tables) = @_;
	my $limit = @tables ? ' LIMIT TO (' . join(', ', map { _identifier($_) } @tables) . ')' : '';
	$self->sql_target(sprintf 'CREATE SCHEMA IF NOT EXISTS %2$s; IMPORT FOREIGN SCHEMA %1$s%4$s FROM SERVER %3$s INTO %2$s',
		_identifier($remote), _identifier($local), _identifier($self->{server}), $limit);
	return;
}

=pod

=item $pair->wait_for_state($migration, $state, [$slice])

Waits until rehome.status shows the state, of every slice unless one is named.

=cut

sub wait_for_state
{
	my ($self, $migration, $state, $slice) = @_;
	my $where = 'migration = ' . _literal($migration);
	$where .= ' AND slice = ' . _literal($slice) if defined $slice;
	$state = _literal($state);
	my $reached = wait_until($self->target,
		"SELECT coalesce(bool_and(state::text = $state), false) FROM rehome.status WHERE $where",
		undef, $self->dbname);
	if (!$reached)
	{
		my (undef, $status) = $self->target->psql($self->dbname,
			"SELECT s FROM rehome.status s WHERE $where", timeout => 10);
		diag("rehome.status: $status");
	}
	return $reached;
}

=pod

=item $pair->load_shop, $pair->shop_tables

Loads test/fixtures/shop_*.sql; the pairs of its tables, for same_content. A
partitioned table stands for its partitions.

=cut

sub load_shop
{
	my ($self) = @_;
	for my $side (qw(source target))
	{
		_load($self->{$side}, $self->dbname, fixture('shop_schema.sql'), '-v', 'source_version=' . $self->source_version);
	}
	_load($self->source, $self->dbname, fixture('shop_data.sql'), '-v', "scale=$self->{scale}");
	return;
}

sub shop_tables
{
	my ($self) = @_;
	return [
		split /\n/,
		$self->sql_source(q{
			SELECT format('%I.%I', n.nspname, c.relname)
			  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			 WHERE n.nspname = 'shop' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			 ORDER BY 1})
	];
}

sub _load
{
	my ($node, $dbname, $file, @more) = @_;
	$node->run_log([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @more, '-d', $node->connstr($dbname), '-f', $file ])
	  or croak "cannot load $file, see the log";
	return;
}

=pod

=back

=head1 Functions

=over

=item fixture($name)

The path of a file of test/fixtures.

=cut

sub fixture
{
	my ($name) = @_;
	my $path = dirname(__FILE__) . "/../../fixtures/$name";
	croak "there is no fixture $name" unless -e $path;
	return $path;
}

=pod

=item wait_until($node, $sql, [$timeout], [$dbname])

Polls until the query gives true. Returns 1; or 0 after the timeout (seconds),
with the last answer as a diagnosis. A server that is down is waited for too.

=cut

sub wait_until
{
	my ($node, $sql, $timeout, $dbname) = @_;
	$timeout //= $PostgreSQL::Test::Utils::timeout_default;
	$dbname  //= 'postgres';
	my $until = time + $timeout;
	my ($answer, $error);
	while (1)
	{
		($answer, $error) = _ask($node, $dbname, $sql, $timeout + 10);
		return 1 if ($answer // '') eq 't';
		last if time > $until;
		# There is nothing to wait on: what changes is in another process.
		usleep(50_000);
	}
	diag("still not true after $timeout s: $sql\nlast answer: " . ($answer // 'none') . "\n" . ($error // ''));
	return 0;
}

# The first value of the first row, in a session of its own, as psql would show it;
# or undef and the error. Polling with psql itself keeps a core busy with starting it.
sub _ask
{
	my ($node, $dbname, $sql, $timeout) = @_;
	(my $quoted = $dbname) =~ s/(['\\])/\\$1/g;
	my $db = DBI->connect(
		sprintf("dbi:Pg:host=%s;port=%s;dbname='%s';connect_timeout=%d;options='-c statement_timeout=%ds'", $node->host, $node->port, $quoted, $timeout, $timeout),
		'', '', { PrintError => 0, RaiseError => 0, PrintWarn => 0, AutoCommit => 1, pg_bool_tf => 1, pg_server_prepare => 0 });
	return (undef, $DBI::errstr) unless $db;
	my ($answer) = $db->selectrow_array($sql);
	my $error = $db->errstr;
	$db->disconnect;
	return ($answer, $error);
}

=pod

=item sqlstate_of($node, $sql, [$dbname], %psql_arguments)

Runs it and returns (SQLSTATE, message, detail, hint) of the error that ended it,
or ('00000', '', '', '').

=item error_of($stderr)

The same from what psql has said with VERBOSITY verbose; it has failed.

=cut

sub sqlstate_of
{
	my ($node, $sql, $dbname, %more) = @_;
	my ($status, undef, $stderr) =
	  $node->psql($dbname // 'postgres', "\\set VERBOSITY verbose\n$sql", %more);
	return $status == 0 ? ('00000', '', '', '') : error_of($stderr);
}

sub error_of
{
	my ($stderr) = @_;
	my ($sqlstate, %part);
	my $current;
	for my $line (split /\n/, $stderr)
	{
		if ($line =~ /^(?:psql:[^:]*:\d+: )?(?:ERROR|FATAL|PANIC):  ([0-9A-Z]{5}): (.*)/)
		{
			($sqlstate, $current) = ($1, 'message');
			%part = (message => $2);
		}
		elsif (defined $sqlstate && $line =~ /^(DETAIL|HINT|CONTEXT|QUERY|LINE \d+|LOCATION|SCHEMA NAME|TABLE NAME|COLUMN NAME|CONSTRAINT NAME|DATATYPE NAME): +(.*)/)
		{
			$current = lc $1;
			$part{$current} = $2;
		}
		elsif ($line =~ /^(?:psql:[^:]*:\d+: )?(?:WARNING|NOTICE|INFO|LOG|DEBUG):  /)
		{
			$current = undef;
		}
		elsif (defined $current)
		{
			$part{$current} .= "\n$line";
		}
	}
	# Without a word from the server, the connection was lost.
	return ('08006', $stderr, '', '') unless defined $sqlstate;
	return ($sqlstate, map { $part{$_} // '' } qw(message detail hint));
}

=pod

=item same_content($pair, $tables, [$name])

One test: each table has the same rows on both sides, all tables of a side read
at one snapshot. A table is a name, quoted as in SQL, or a hash {source => name,
target => name} in which each may be a query in parentheses, to compare a mapped
table with what it should be. On failure the rows that differ are shown.

=cut

sub same_content
{
	my ($pair, $tables, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @pairs = map { ref $_ ? $_ : { source => $_, target => $_ } } @$tables;
	$name //= 'the same content on both sides';

	my %digest;
	for my $side (qw(source target))
	{
		my @found = split /\n/, _all_at_once($pair, $side, map {
			"SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(r, E'\\n' ORDER BY r COLLATE \"C\")), 'none')"
			  . " FROM (SELECT t::text AS r FROM $_->{$side} AS t) AS s"
		} @pairs);
		$digest{$side} = \@found;
	}

	my @different = grep { $digest{source}[$_] ne $digest{target}[$_] } 0 .. $#pairs;
	return ok(@pairs > 0, $name) unless @different;
	ok(0, $name);
	for my $i (@different)
	{
		diag("$pairs[$i]{source}: source has $digest{source}[$i]");
		diag("$pairs[$i]{target}: target has $digest{target}[$i]");
		_show_difference($pair, $pairs[$i]);
	}
	return 0;
}

sub _all_at_once
{
	my ($pair, $side, @queries) = @_;
	return $pair->{$side}->safe_psql($pair->dbname,
		join(";\n", 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY', @queries, 'COMMIT;'));
}

# Both sides' rows by their digests, so that rows with line feeds stay whole.
sub _show_difference
{
	my ($pair, $table) = @_;
	my (%rows, %times);
	for my $side (qw(source target))
	{
		for (split /\n/, _all_at_once($pair, $side,
			"SELECT md5(r) || ' ' || left(replace(r, E'\\n', '\\n'), 300) FROM (SELECT t::text AS r FROM $table->{$side} AS t) AS s ORDER BY r COLLATE \"C\""))
		{
			my ($digest, $row) = split / /, $_, 2;
			$rows{$digest} = $row;
			$times{$digest}{$side}++;
		}
	}
	my @lines;
	for my $digest (sort { $rows{$a} cmp $rows{$b} } keys %rows)
	{
		my ($at_source, $at_target) = map { $times{$digest}{$_} // 0 } qw(source target);
		next if $at_source == $at_target;
		push @lines, "  source $at_source times, target $at_target times: $rows{$digest}";
	}
	my $more = @lines - 20;
	splice @lines, 20 if $more > 0;
	diag($_) for @lines;
	diag("  and $more more") if $more > 0;
	return;
}

=pod

=item schema_dump($node, [$dbname], @pg_dump_arguments)

What pg_dump --schema-only says.

=item sequence_values($node, $schema, [$dbname])

{name => 'last_value is_called'} of all sequences of a schema.

=item catalog_state($node, [$dbname])

All that a transaction must leave as it was, as one text: relations, triggers,
constraints and indexes, functions with their bodies, the sequences' values, who
has authority, and the tables of schemas rehome and rehome_source whose rows say
what has been done. What the sync worker goes on with by itself is left out.

=cut

sub schema_dump
{
	my ($node, $dbname, @arguments) = @_;
	local %ENV = $node->_get_env;
	my ($dump, $errors) = run_command(
		[ $node->installed_command('pg_dump'), '--schema-only', @arguments, '-d', $node->connstr($dbname // 'postgres') ]);
	croak "pg_dump failed: $errors" if $errors ne '' || $dump eq '';
	return $dump =~ s/^\\(?:un)?restrict .*\n//gmr;
}

sub sequence_values
{
	my ($node, $schema, $dbname) = @_;
	$dbname //= 'postgres';
	my @names = split /\n/, $node->safe_psql($dbname,
		'SELECT oid::regclass FROM pg_class WHERE relkind = ' . q{'S' AND relnamespace = } . _literal($schema) . '::regnamespace ORDER BY 1');
	return {} unless @names;
	my @values = split /\n/, $node->safe_psql($dbname,
		join ";\n", map { "SELECT last_value || ' ' || is_called FROM $_" } @names);
	my %value;
	@value{@names} = @values;
	return \%value;
}

sub catalog_state
{
	my ($node, $dbname) = @_;
	$dbname //= 'postgres';
	my $schemas = q{(SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')};
	my @queries = (
		qq{SELECT 'relation', oid, oid::regclass, relkind, relowner::regrole, relfilenode, relpersistence, relispartition, relacl, reloptions
		     FROM pg_class WHERE relnamespace IN $schemas AND relkind <> 'S' ORDER BY 2},
		q{SELECT 'trigger', oid, tgrelid::regclass, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger ORDER BY 2},
		q{SELECT 'constraint', oid, conrelid::regclass, convalidated, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 2},
		q{SELECT 'index', indexrelid, indisvalid, indisready, indisclustered, indisreplident, pg_get_indexdef(indexrelid) FROM pg_index ORDER BY 2},
		qq{SELECT 'function', oid, proowner::regrole, proacl, pg_get_functiondef(oid)
		     FROM pg_proc WHERE pronamespace IN $schemas AND prokind <> 'a' ORDER BY 2});
	my $state = '';
	for my $schema (split /\n/, $node->safe_psql($dbname, "SELECT n FROM unnest(ARRAY(SELECT nspname FROM pg_namespace WHERE oid IN $schemas)) AS n ORDER BY 1"))
	{
		my $values = sequence_values($node, $schema, $dbname);
		# A number used up by a transaction that was rolled back is used up.
		next if $schema eq 'rehome';
		$state .= "sequence $_ $values->{$_}\n" for sort keys %$values;
	}
	my $has = sub { $node->safe_psql($dbname, "SELECT to_regclass('$_[0]') IS NOT NULL") eq 't' };
	push @queries, q{SELECT 'slice', id, state, authority, paused, reason FROM rehome.slice ORDER BY 2},
	  q{SELECT 'event', migration, slice, kind, message FROM rehome.event ORDER BY id},
	  q{SELECT 'saved', table_map_id, name, rebuilt_at FROM rehome.saved_object ORDER BY id}
	  if $has->('rehome.slice');
	push @queries, q{SELECT 'slice', token, slice, authority FROM rehome_source.slice ORDER BY 2, 3},
	  q{SELECT 'applying', xid FROM rehome_source.applying ORDER BY 2}
	  if $has->('rehome_source.slice');
	return $state . $node->safe_psql($dbname, join(";\n", 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY', @queries, 'COMMIT'));
}

=pod

=item start_pgbench($node, $script, %options)

Starts pgbench in the background with the script (SQL text, or the path of a
file) and returns a handle. Options: clients (2), time (600 seconds, a limit
only), rate (transactions per second, all clients together), dbname, protocol,
args (further arguments), vars ({name => value}).

A pgbench that is killed reports nothing. So the script is run with a line before
it that ends the client, between two transactions, once stop_pgbench has taken an
advisory lock on that server: what pgbench then reports as processed is what it
saw committed.

=cut

sub start_pgbench
{
	my ($node, $script, %option) = @_;
	my $dbname = $option{dbname} // 'postgres';
	my $clients = $option{clients} // 2;
	$script = slurp_file($script) if $script !~ /\n/ && -e $script;

	my $file = $node->basedir . '/writer_' . ++$writers . '.sql';
	append_to_file($file, <<"EOS");
SELECT pg_try_advisory_xact_lock_shared($stop_lock)::int AS rehome_go \\gset
\\if :rehome_go
\\else
\\set rehome_stopped 1 / 0
\\endif
$script
EOS
	my @command = (
		$node->installed_command('pgbench'), '-n', '-f', $file,
		'-c', $clients, '-j', 1, '-T', $option{time} // 600,
		'-M', $option{protocol} // 'simple');
	push @command, '-R', $option{rate} if $option{rate};
	push @command, map { ('-D', "$_=$option{vars}{$_}") } sort keys %{ $option{vars} // {} };
	push @command, @{ $option{args} // [] };
	push @command, $node->connstr($dbname);

	local %ENV = $node->_get_env;
	my $writer = { node => $node, dbname => $dbname, stdout => '', stderr => '' };
	print '# starting: ' . join(' ', @command) . "\n";
	$writer->{run} = IPC::Run::start(\@command, '<', \undef, '>', \$writer->{stdout}, '2>', \$writer->{stderr});
	return $writer;
}

=pod

=item stop_pgbench($writer)

Ends the load as described above and returns the result of finish_pgbench. If the
server is down, pgbench ends by itself.

=cut

sub stop_pgbench
{
	my ($writer) = @_;
	my $node = $writer->{node};
	$writer->{run}->pump_nb;
	if ($writer->{run}->pumpable)
	{
		my $stopper = $node->background_psql($writer->{dbname}, on_error_stop => 0);
		$stopper->query_safe("SELECT pg_advisory_lock($stop_lock)");
		my $result = finish_pgbench($writer);
		$stopper->quit;
		return $result;
	}
	return finish_pgbench($writer);
}

=pod

=item finish_pgbench($writer)

Waits for the end and returns {committed, tps, errors, stdout, stderr}: what was
committed, and every message but that of our own stop.

=cut

sub finish_pgbench
{
	my ($writer) = @_;
	my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
	while ($writer->{run}->pumpable)
	{
		$writer->{run}->pump_nb;
		if (time > $limit)
		{
			$writer->{run}->kill_kill;
			die "pgbench did not end: $writer->{stderr}";
		}
		# It is another process: nothing to wait on but its end.
		usleep(20_000);
	}
	$writer->{run}->finish;
	my ($committed) = $writer->{stdout} =~ /^number of transactions actually processed: (\d+)/m;
	my ($tps)       = $writer->{stdout} =~ /^tps = ([0-9.]+)/m;
	my @errors = grep {
		/error|fatal|aborted|lost/i && !/division by zero|evaluation of meta-command|Run was aborted|results are incomplete/
		  && !/^pgbench: error: client \d+ aborted in command \d+ \(set\)/
	} split /\n/, $writer->{stderr};
	return {
		committed => $committed // 0,
		tps       => $tps       // 0,
		errors    => \@errors,
		stdout    => $writer->{stdout},
		stderr    => $writer->{stderr}
	};
}

=pod

=item pgbench_running($writer)

True as long as the load runs.

=back

=cut

sub pgbench_running
{
	my ($writer) = @_;
	$writer->{run}->pump_nb if $writer->{run}->pumpable;
	return $writer->{run}->pumpable ? 1 : 0;
}

=pod

=head1 Breaking things

=over

=item start_psql($node, $sql, %options)

Starts psql with the SQL in the background, ON_ERROR_STOP set, and returns a
handle. Options: dbname, debug_point (the setting rehome.debug_point of that
session), name (its application_name), user, options (further PGOPTIONS).

=cut

sub start_psql
{
	my ($node, $sql, %option) = @_;
	my $connstr = $node->connstr($option{dbname} // 'postgres');
	my @settings = $option{options} // ();
	push @settings, "-c rehome.debug_point=$option{debug_point}" if defined $option{debug_point};
	$connstr .= ' application_name=' . _option_value($option{name}) if defined $option{name};
	$connstr .= ' user=' . _option_value($option{user}) if defined $option{user};
	$connstr .= ' options=' . _option_value(join ' ', @settings) if @settings;

	my $file = $node->basedir . '/call_' . ++$calls . '.sql';
	append_to_file($file, "$sql\n;\n");
	my $call = { node => $node, stdout => '', stderr => '' };
	local %ENV = $node->_get_env;
	print "# in the background, at " . $node->name . ": $sql\n";
	$call->{run} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-d', $connstr, '-f', $file ],
		'<', \undef, '>', \$call->{stdout}, '2>', \$call->{stderr});
	return $call;
}

# A value of a connection string.
sub _option_value
{
	my ($value) = @_;
	return "'" . $value =~ s/(['\\])/\\$1/gr . "'";
}

=pod

=item psql_running($call)

True as long as it runs.

=cut

sub psql_running
{
	my ($call) = @_;
	return 0 unless $call->{run}->pumpable;
	# pump_nb looks again, and dies when it has ended since
	eval { $call->{run}->pump_nb; 1 } or $@ =~ /^process ended prematurely/ or die $@;
	return $call->{run}->pumpable ? 1 : 0;
}

=pod

=item finish_psql($call)

Waits for the end and returns {status, sqlstate, stdout, stderr}; sqlstate is
'00000' if all went well, '08006' if the connection was lost without a word.

=cut

sub finish_psql
{
	my ($call) = @_;
	my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
	while (psql_running($call))
	{
		if (time > $limit)
		{
			$call->{run}->kill_kill;
			die "psql did not end: $call->{stdout}\n$call->{stderr}";
		}
		# It is another process: nothing to wait on but its end.
		usleep(10_000);
	}
	$call->{run}->finish;
	my $status = $call->{run}->result(0);
	my ($sqlstate) = $call->{stderr} =~ /^(?:psql:[^:]*:\d+: )?(?:ERROR|FATAL|PANIC):  ([0-9A-Z]{5}):/m;
	$sqlstate //= $status == 0 ? '00000' : '08006';
	return { status => $status, sqlstate => $sqlstate, stdout => $call->{stdout}, stderr => $call->{stderr} };
}

=pod

=item hold_lock($node, $class, $object, [$dbname])

A background_psql session that holds the advisory lock; quit it to let go.

=item debug_lock

The (class, object) of the lock at which a debug point waits.

=cut

sub hold_lock
{
	my ($node, $class, $object, $dbname) = @_;
	my $session = $node->background_psql($dbname // 'postgres', on_error_stop => 0);
	$session->query_safe("SELECT pg_advisory_lock($class, $object)");
	return $session;
}

sub debug_lock { return (21064, 1) }

=pod

=item wait_for_lock_waiter($node, $class, $object, [$dbname])

Waits until a session waits for the advisory lock and returns its pid; undef
after the timeout.

=cut

sub wait_for_lock_waiter
{
	my ($node, $class, $object, $dbname) = @_;
	$dbname //= 'postgres';
	my $waiter = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $class AND objid = $object AND objsubid = 2 AND NOT granted LIMIT 1";
	wait_until($node, "SELECT EXISTS ($waiter)", undef, $dbname) or return undef;
	return $node->safe_psql($dbname, $waiter);
}

=pod

=item kill_server($node)

SIGKILL to all processes of the server, as when the machine loses power; returns
when they have gone, so that C<< $node->start >> succeeds.  No process outlives
another: a session that ends because its postmaster has would let go of its
locks, and who waits for them might still commit.

=item kill_and_start($node)

Both, one after the other.

=back

=cut

sub kill_server
{
	my ($node) = @_;
	my $postmaster = $node->{_pid};
	# stopped, it neither starts another one nor minds that they die
	kill 'STOP', $postmaster;
	my @children = _children($postmaster);
	kill 'KILL', @children;
	$node->kill9;
	my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
	for my $pid (@children)
	{
		# Theirs is the shared memory: nothing to wait on but their end.
		while (_process($pid))
		{
			die "process $pid survives a SIGKILL" if time > $limit;
			usleep(10_000);
		}
	}
	# A new one starts only when even the zombie is gone.
	while (kill 0, $postmaster)
	{
		die "postmaster $postmaster survives a SIGKILL" if time > $limit;
		usleep(10_000);
	}
	return;
}

sub kill_and_start
{
	my ($node) = @_;
	kill_server($node);
	# not a reason to end the run of all tests
	$node->start(fail_ok => 1) or croak 'after a SIGKILL the server does not start: ' . $node->name;
	return;
}

# (state, parent) of a process that is no zombie, or ().
sub _process
{
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return;
	my $line = <$fh> // '';
	close $fh or return;
	my ($state, $parent) = $line =~ /\) (\S) (\d+)/ or return;
	return $state eq 'Z' ? () : ($state, $parent);
}

sub _children
{
	my ($parent) = @_;
	my @pids;
	for my $pid (map { m{(\d+)$} } glob '/proc/[0-9]*')
	{
		my (undef, $of) = _process($pid);
		push @pids, $pid if defined $of && $of == $parent;
	}
	return @pids;
}

sub _identifier
{
	my ($name) = @_;
	return '"' . $name =~ s/"/""/gr . '"';
}

sub _literal
{
	my ($text) = @_;
	return "'" . $text =~ s/'/''/gr . "'";
}

sub _options
{
	my (%options) = @_;
	return join ', ', map { "$_ " . _literal($options{$_}) } sort keys %options;
}

# No test is passed while a server complains about the extension's sessions.
END
{
	my $status = $?;
	for my $node (@nodes)
	{
		my @said = grep { $_ =~ $leak } split /\n/, slurp_file($node->logfile);
		next if !@said;
		diag('the server "' . $node->name . "\" said:\n" . join("\n", @said));
		$status ||= 1;
	}
	$? = $status;
}

1;
