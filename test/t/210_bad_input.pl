# Bad input, tried as data: test/fixtures/bad_input.cases has wrong calls and
# wrong situations, each with the error it must give, whole, and with what may be
# different afterwards on either side, which is nothing unless a case says so.
# States are made here; the servers have no background workers, so that nothing
# moves but what a case does.
use strict;
use warnings;

use BadInput;
use Cwd qw(abs_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RehomeTest;
use Test::More;

# Messages name the superuser: he is not called after whoever runs this.
$ENV{PGUSER} = 'postgres';
my $pair = new_pair(
	role        => 1,
	tcp         => 1,
	init        => { allows_streaming => 1, extra => [ '--no-locale', '-E', 'UTF8', '-U', 'postgres' ] },
	server_options => { sslmode => 'disable' },
	source_conf => "autovacuum = off\nmax_connections = 40\n",
	target_conf => join("\n",
		'autovacuum = off', 'max_connections = 40', 'max_worker_processes = 0', 'max_prepared_transactions = 2', 'allow_in_place_tablespaces = on',
		'rehome.copy_workers = 0', 'rehome.lock_timeout = 100ms', 'rehome.lock_retries = 1', ''));
my ($source, $target) = ($pair->source, $pair->target);
my $superuser = $pair->sql_source('SELECT current_user');

# The target's tablespaces are on a disk that is full whenever a case says so.
my $disk = abs_path($target->data_dir . '/pg_tblspc');
{
	local $ENV{LD_PRELOAD}          = build_full_disk($target->basedir);
	local $ENV{PG_REHOME_FULL_DISK} = $disk;
	$target->restart;
}

# Tables of every state, the same on both sides; rows at the source.
my @live = qw(planned copying syncing paused cut_over one_way rolling_back completed cancelled weak lost busy);
my $table = q{CREATE TABLE %s.item (id int PRIMARY KEY, name text NOT NULL, qty int, code text UNIQUE)};
my $odd   = q{"odd's $body$ \ %s ñ"};
my %sql   = map { $_ => "CREATE ROLE blocker SUPERUSER LOGIN;\n" } qw(source target);
for my $state (@live)
{
	my $make = "CREATE SCHEMA $state; " . sprintf($table, $state) . ";\n";
	$sql{$_} .= $make for qw(source target);
	$sql{source} .= "INSERT INTO $state.item SELECT i, 'name ' || i, i, 'code ' || i FROM generate_series(1, 5) i;\n";
}
my $both = qq{
	CREATE SCHEMA def;
	CREATE TABLE def.item (id int PRIMARY KEY, name text, qty int, price numeric, born date, tags text[], extra jsonb);
	CREATE TABLE def.other (id int PRIMARY KEY, name text);
	CREATE SCHEMA rows;
	CREATE SCHEMA disk;
	CREATE SCHEMA $odd;
	CREATE TABLE $odd."t \$body\$ %I" ("k'e""y \$body\$ \\ %s" int PRIMARY KEY, "v %L" text);
};
$sql{source} .= $both . qq{
	INSERT INTO $odd."t \$body\$ %I" SELECT i, 'v' FROM generate_series(1, 5) i;
	CREATE TABLE disk.item (id int PRIMARY KEY, name text NOT NULL);
	INSERT INTO disk.item VALUES (1, 'one');
	CREATE TABLE disk.load (id int PRIMARY KEY, name text NOT NULL);
	INSERT INTO disk.load SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 100) i;
	CREATE VIEW def.seen AS SELECT 1 AS id, 'x'::text AS name;
	CREATE TABLE def.parent (id int PRIMARY KEY, name text);
	CREATE TABLE def.child () INHERITS (def.parent);
	CREATE TABLE def.keyless (id int, name text);
	CREATE TABLE rows.checked (id int PRIMARY KEY, v text);
	CREATE TABLE rows.filled (id int PRIMARY KEY, v text);
	CREATE TABLE rows.typed (id int PRIMARY KEY, v text);
	CREATE TABLE rows.short (id int PRIMARY KEY, v text);
	CREATE TABLE rows.small (id int PRIMARY KEY, v bigint);
	CREATE TABLE rows.divided (id int PRIMARY KEY, v int);
	CREATE TABLE rows.twice (id int PRIMARY KEY, v text);
	CREATE TABLE rows.orphan (id int PRIMARY KEY, v int);
	CREATE TABLE rows.ranged (id int PRIMARY KEY, v int);
	CREATE TABLE rows.changing (id int PRIMARY KEY, v text, w text);
	INSERT INTO rows.checked VALUES (1, 'good'), (2, 'bad');
	INSERT INTO rows.filled VALUES (1, 'x'), (2, NULL);
	INSERT INTO rows.typed VALUES (1, '1'), (2, 'two');
	INSERT INTO rows.short VALUES (1, 'abc'), (2, 'abcd');
	INSERT INTO rows.small VALUES (1, 1), (2, 3000000000);
	INSERT INTO rows.divided VALUES (1, 1), (2, 0);
	INSERT INTO rows.twice VALUES (1, 'a'), (2, 'a');
	INSERT INTO rows.orphan VALUES (1, 1), (2, 7);
	INSERT INTO rows.ranged VALUES (1, 1), (2, 200);
	INSERT INTO rows.changing VALUES (1, 'a', 'b');
};
$sql{target} .= $both . qq{
	CREATE TABLESPACE disk LOCATION '';
	CREATE TABLE disk.item (id int PRIMARY KEY, name text NOT NULL) TABLESPACE disk;
	CREATE TABLE disk.load (id int PRIMARY KEY, name text NOT NULL) TABLESPACE disk;
	CREATE TABLE rows.known (v int PRIMARY KEY);
	INSERT INTO rows.known VALUES (1);
	CREATE TABLE rows.checked (id int PRIMARY KEY, v text CHECK (v <> 'bad'));
	CREATE TABLE rows.filled (id int PRIMARY KEY, v text NOT NULL);
	CREATE TABLE rows.typed (id int PRIMARY KEY, v int);
	CREATE TABLE rows.short (id int PRIMARY KEY, v varchar(3));
	CREATE TABLE rows.small (id int PRIMARY KEY, v int);
	CREATE TABLE rows.divided (id int PRIMARY KEY, v int);
	CREATE TABLE rows.twice (id int PRIMARY KEY, v text UNIQUE);
	CREATE TABLE rows.orphan (id int PRIMARY KEY, v int REFERENCES rows.known);
	CREATE TABLE rows.ranged (id int NOT NULL, v int NOT NULL, PRIMARY KEY (id, v)) PARTITION BY RANGE (v);
	CREATE TABLE rows.ranged_1 PARTITION OF rows.ranged FOR VALUES FROM (0) TO (100);
	CREATE TABLE rows.changing (id int PRIMARY KEY, v text, w text);
	CREATE TABLE rows.garbage (id int PRIMARY KEY, v text);
	CREATE SEQUENCE def.numbers;
	CREATE VIEW def.seen AS SELECT 1 AS id, 'x'::text AS name;
	CREATE MATERIALIZED VIEW def.frozen AS SELECT 1 AS id, 'x'::text AS name;
	CREATE TYPE def.pair AS (id int, name text);
	CREATE TABLE def.keyless (id int, name text);
	CREATE TABLE def.parent (id int PRIMARY KEY, name text);
	CREATE TABLE def.child () INHERITS (def.parent);
	CREATE TABLE def.loose (id int NOT NULL, a int NOT NULL, b int NOT NULL, c int UNIQUE, name text, UNIQUE (a) DEFERRABLE INITIALLY DEFERRED);
	CREATE UNIQUE INDEX ON def.loose (b) WHERE b > 0;
	CREATE UNIQUE INDEX ON def.loose (lower(name));
	CREATE TABLE def.parted (id int PRIMARY KEY, name text) PARTITION BY HASH (id);
	CREATE TABLE def.parted_0 PARTITION OF def.parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE def.parted_1 PARTITION OF def.parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE def.misfit (id int PRIMARY KEY, name int, qty bool, extra int);
	CREATE TABLE def.demanding (id int PRIMARY KEY, name text, wanted text NOT NULL);
	CREATE TABLE def.computed (id int PRIMARY KEY, name text, twice int GENERATED ALWAYS AS (id * 2) STORED);
	CREATE TABLE def.unmapped (id int PRIMARY KEY, name text);
	CREATE FUNCTION def.shaky(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT \$1';
	CREATE FUNCTION def.calls(what text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE what; END';
	CREATE SCHEMA empty;
	CREATE SCHEMA wanting;
	CREATE TABLE wanting.item (id int PRIMARY KEY);
	CREATE ROLE nobody LOGIN;
	CREATE ROLE reader LOGIN IN ROLE rehome_reader;
	CREATE ROLE operator LOGIN IN ROLE rehome_operator;
	CREATE ROLE admin LOGIN IN ROLE rehome_admin;
	CREATE ROLE boss LOGIN IN ROLE rehome_admin;
	GRANT USAGE ON SCHEMA def TO nobody, reader, operator, admin, boss;
	GRANT CREATE, USAGE ON SCHEMA weak, def TO boss;
	ALTER TABLE weak.item OWNER TO boss;
};
$pair->sql_source($sql{source});
$pair->sql_target($sql{target});
$pair->sql_source(q{CREATE DATABASE bytes TEMPLATE template0 ENCODING SQL_ASCII});
$source->safe_psql('bytes', q{SET client_encoding = 'SQL_ASCII'; CREATE SCHEMA rows; CREATE TABLE rows.garbage (id int PRIMARY KEY, v text); INSERT INTO rows.garbage VALUES (1, E'a\xe9b')});
$pair->grant_source('weak');

# The connecting role of the superuser's migrations is one; boss has a password.
my $port = $source->port;
$pair->sql_target(qq{
	ALTER USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (SET user '$superuser', DROP password);
	CREATE SERVER bytes FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'bytes');
	CREATE USER MAPPING FOR CURRENT_USER SERVER bytes OPTIONS (user '$superuser');
	CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
	CREATE SERVER nomap FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user '$superuser');
	CREATE EXTENSION file_fdw;
	CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
	GRANT USAGE ON FOREIGN SERVER src TO boss;
	CREATE USER MAPPING FOR boss SERVER src OPTIONS (user 'rehome_src', password 'secret');
});
$pair->sql_source(q{ALTER ROLE rehome_src PASSWORD 'secret'});

# Foreign tables under names that do not differ from run to run.
$pair->import_foreign_schema($_, "${_}_far") for @live, qw(def rows disk);
$pair->sql_target(q{
	CREATE FOREIGN TABLE def_far.elsewhere (id int, name text) SERVER other;
	CREATE FOREIGN TABLE def_far.alias (id int NOT NULL, name text) SERVER src OPTIONS (schema_name 'def', table_name 'other');
	CREATE FOREIGN TABLE def_far.nowhere (id int NOT NULL, name text) SERVER src OPTIONS (schema_name 'def', table_name 'nowhere');
	CREATE FOREIGN TABLE def_far.wider (id int NOT NULL, name text, ghost int) SERVER src OPTIONS (schema_name 'def', table_name 'other');
	CREATE FOREIGN TABLE def_far.computed (id int NOT NULL, name text, twice int GENERATED ALWAYS AS (id * 2) STORED) SERVER src OPTIONS (schema_name 'def', table_name 'other');
	CREATE FOREIGN TABLE weak_far.spare (id int NOT NULL, name text) SERVER src OPTIONS (schema_name 'def', table_name 'other');
	CREATE FOREIGN TABLE def_far.text (line text) SERVER files OPTIONS (program 'echo text');
	CREATE SCHEMA bytes_far;
	IMPORT FOREIGN SCHEMA rows FROM SERVER bytes INTO bytes_far;
	ALTER FOREIGN TABLE rows_far.typed ALTER v TYPE int;
	GRANT USAGE ON SCHEMA weak_far TO boss;
	GRANT SELECT ON ALL TABLES IN SCHEMA weak_far TO boss;
});

# The states.
my $make = '';
for my $state (grep { $_ ne 'weak' } @live)
{
	$make .= "SELECT rehome.create_migration('$state', 'src', 'bad input', home => 'db.example.com'); SELECT rehome.add_schema('$state', '${state}_far', '$state');\n";
}
$make .= qq{
	SELECT rehome.create_migration('def', 'src', 'bad input');
	SELECT rehome.add_table('def', 'def_far.item', 'def.item');
	SELECT rehome.add_slice('def', 'second');
	SELECT rehome.create_migration('once', NULL, 'bad input');
	SELECT rehome.create_migration('local', NULL, 'bad input');
	SELECT rehome.create_migration('files', 'files', 'bad input');
	SELECT rehome.create_migration('empty', 'src', 'bad input');
	SELECT rehome.create_migration('odd''s \$body\$ \\ %s ñ', 'src', 'bad input', home => '\$body\$ it''s "there" \\ %s \$fence\$ ñ');
	SELECT rehome.add_schema('odd''s \$body\$ \\ %s ñ', 'odd''s \$body\$ \\ %s ñ', 'odd''s \$body\$ \\ %s ñ');
	SELECT rehome.create_migration('disk', 'src', 'bad input');
	SELECT rehome.add_slice('disk', 'load');
	SELECT rehome.add_table('disk', 'disk_far.item', 'disk.item');
	SELECT rehome.add_table('disk', 'disk_far.load', 'disk.load', slice => 'load');
	SELECT rehome.create_migration('bytes', 'bytes', 'bad input');
	SELECT rehome.add_table('bytes', 'bytes_far.garbage', 'rows.garbage');
	SELECT rehome.create_migration('rows', 'src', 'bad input');
};
my @slices = qw(checked filled typed short small divided twice orphan ranged changing);
for my $slice (@slices)
{
	my $more = $slice eq 'ranged' ? q{, key => '{id,v}'} : $slice eq 'divided' ? q{, columns => '{"v": "100 / v"}'} : '';
	$make .= "SELECT rehome.add_slice('rows', '$slice'); SELECT rehome.add_table('rows', 'rows_far.$slice', 'rows.$slice', slice => '$slice'$more);\n";
}
$pair->sql_target($make);
$target->safe_psql('postgres', q{SELECT rehome.create_migration('weak', 'src', 'bad input'); SELECT rehome.add_table('weak', 'weak_far.item', 'weak.item')}, extra_params => [ '-U', 'boss' ]);

# A copy that was broken off before the first chunk.
sub break_off
{
	my ($migration, $slice) = @_;
	my ($sqlstate, $message) = sqlstate_of($target, "SET rehome.debug_point = 'chunks-planned:error'; CALL rehome.copy('$migration', '$slice')");
	is("$sqlstate $message", 'XX000 debug point "chunks-planned" reached', "the copy of $migration/$slice is broken off") or BAIL_OUT('no such state');
	return;
}
break_off('copying', 'main');
break_off('rows',    $_) for @slices;
break_off('disk',    'load');
break_off('bytes',   'main');
{
	my @copied = grep { !/^(?:planned|copying|cancelled|weak)$/ } @live;
	$pair->sql_target(join "\n", map({ "CALL rehome.copy('$_');" } @copied), q{
		CALL rehome.copy('disk', 'main');
		CALL rehome.copy('odd''s $body$ \ %s ñ');
		CALL rehome.cutover('odd''s $body$ \ %s ñ');
		SELECT rehome.pause('paused', reason => 'out to lunch');
		SET client_min_messages = error;
		CALL rehome.cutover('cut_over');
		CALL rehome.cutover('one_way', one_way => true);
		CALL rehome.cutover('rolling_back');
		CALL rehome.cutover('completed');
		CALL rehome.complete('completed');
		CALL rehome.cancel('cancelled');
		BEGIN;
		CALL rehome.rollback('rolling_back');
		COMMIT;
	});
	# copied once, from the same database
	$pair->sql_target(q{
		CREATE TABLE def.once_source (id int PRIMARY KEY, name text);
		INSERT INTO def.once_source VALUES (1, 'one');
		CREATE TABLE def.once (id int PRIMARY KEY, name text);
		SELECT rehome.add_table('once', 'def.once_source', 'def.once');
		CALL rehome.copy('once');
	});
}
is($pair->sql_target(q{SELECT string_agg(migration || ' ' || state || ' ' || authority, ', ' ORDER BY migration) FROM rehome.status WHERE slice = 'main' AND migration IN ('planned', 'copying', 'syncing', 'paused', 'cut_over', 'one_way', 'rolling_back', 'completed', 'cancelled', 'once')}),
	'cancelled cancelled source, completed completed target, copying copying source, cut_over cut_over target, once syncing source, one_way cut_over target, paused syncing source, planned planned source, rolling_back rolling_back none, syncing syncing source',
	'every state is there');
is($pair->sql_source(qq{SELECT count(*) FROM $odd."t \$body\$ %I"}), 5, 'names with everything in them have not been in the way');
is($pair->sql_target(qq{SELECT count(*) FROM $odd."t \$body\$ %I"}), 5, 'and their rows have come');

# Other servers: the source as it was a moment ago, restored; a standby of it; one
# that was promoted; a standby of the target; servers that speak nonsense; a copy
# of the target's database.
$source->backup('base');
$target->backup('base');
my %node = (source => $source, target => $target);
sub add_node
{
	my ($name, $from, %how) = @_;
	$node{$name} = PostgreSQL::Test::Cluster->new($name, install_path => $from->install_path);
	$node{$name}->init_from_backup($from, 'base', %how);
	$node{$name}->start;
	return;
}
add_node('restored', $source);
add_node('standby',  $source, has_streaming => 1);
add_node('promoted', $source, has_streaming => 1);
$node{promoted}->promote;
add_node('replica', $target, has_streaming => 1);
is($node{replica}->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE reason LIKE '%restored%') || ' of ' || (count(*) > 0) FROM rehome.status}),
	'0 of true', 'a standby of the target does not take itself for a restored copy');
$pair->sql_target('CREATE DATABASE copy TEMPLATE postgres');

# The source goes on, so that whoever has the backup is behind.
$pair->sql_source(q{SELECT txid_current(); UPDATE syncing.item SET qty = qty + 1; SELECT txid_current(); SELECT txid_current()});
$pair->sql_target(q{CALL rehome.sync('syncing')});

my $bad_port = start_bad_servers($source->port);
my $closed = PostgreSQL::Test::Cluster::get_free_port();
my %value = (
	port     => $source->port,
	closed   => $closed,
	user     => $superuser,
	(map { $_ => $bad_port->{$_} } keys %$bad_port),
	(map { $_ => $node{$_}->port } qw(restored standby promoted)));

# Puts the values for {names}.
sub fill
{
	my ($text) = @_;
	$text =~ s/\{(\w+)\}/exists $value{$1} ? $value{$1} : "{$1}"/ge;
	return $text;
}

my %watch = map { $_ => watch($pair->$_, 'postgres') } qw(source target);
$watch{copy} = watch($target, 'copy');
my $dirty = 0;

# What is different on both sides (and in the copy of the database) since it was
# asked for last, a line each.
sub differences
{
	my @more = @_;
	my $text = '';
	for my $side (qw(source target), @more)
	{
		my $changed = changed($watch{$side});
		$text .= "CHANGED at the $side: $changed\n" if $changed ne '';
	}
	return $text;
}

# Sessions are kept: an error must leave its session fit for the next case.
my %session;
sub session
{
	my ($node, $db, $role) = @_;
	return $session{ join ' ', $node, $db, $role } //= do
	{
		my $new = $node{$node}->background_psql($db, on_error_stop => 0, extra_params => [ '-U', $role ]);
		$new->set_query_timer_restart;
		$new->query_safe('\set VERBOSITY verbose');
		$new;
	};
}

# Runs SQL in a session; returns what it said on the error channel, up to the
# second error.
sub say_sql
{
	my ($session, $sql) = @_;
	$session->query($sql);
	my $said = $session->{stderr};
	$session->{stderr} = '';
	$said =~ s/^(.*?(?:ERROR|FATAL|PANIC):  .*?)^psql:[^\n]*(?:ERROR|FATAL|PANIC):  .*/$1/ms;
	return $said;
}

sub clean
{
	my ($session) = @_;
	say_sql($session, 'ROLLBACK; DISCARD ALL');
	return;
}

# Runs SQL that has to succeed, as the superuser.
sub prepare
{
	my ($side, $sql) = @_;
	my $session = session($side, 'postgres', $superuser);
	my $said = say_sql($session, fill($sql));
	die "$sql\n$said" if $said =~ /(?:ERROR|FATAL|PANIC):  /;
	clean($session);
	return;
}

# Runs a case's SQL; returns the error as text.
sub run_case
{
	my ($case) = @_;
	my $db  = $case->{db} // 'postgres';
	my $sql = fill($case->{sql});
	my $said;
	if (defined $case->{parked})
	{
		my $lock = hold_lock($target, debug_lock(), $db);
		my $call = start_psql($target, $sql, dbname => $db, debug_point => "$case->{parked}:wait");
		wait_for_lock_waiter($target, debug_lock(), $db) or diag("$case->{name}: it did not come to $case->{parked}");
		for my $side (qw(source target))
		{
			prepare($side, $case->{"meanwhile_$side"}) if defined $case->{"meanwhile_$side"};
		}
		# what comes before is the case's own doing
		differences();
		$lock->quit;
		$said = finish_psql($call)->{stderr};
	}
	else
	{
		my $session = session($case->{on} // 'target', $db, $case->{as} // $superuser);
		$said = say_sql($session, $sql);
		clean($session);
	}
	return $said =~ /(?:ERROR|FATAL|PANIC):  / ? as_text(error_of($said)) : "00000: no error\n";
}

sub as_text
{
	my ($sqlstate, $message, $detail, $hint) = @_;
	my $text = "$sqlstate: $message\n";
	$text .= "DETAIL: $detail\n" if $detail ne '';
	$text .= "HINT: $hint\n"     if $hint ne '';
	return tidy($text);
}

my @cases = read_cases(fixture('bad_input.cases'));
@cases = grep { "$_->{state}: $_->{name}" =~ /$ENV{BAD_INPUT_ONLY}/ } @cases if $ENV{BAD_INPUT_ONLY};
for my $case (@cases)
{
	my @blockers;
	append_to_file("$disk.full", '') if defined $case->{disk};
	for my $side (grep { defined $case->{$_} } qw(source target))
	{
		prepare($side, $case->{$side});
		$dirty = 1;
	}
	differences() if $dirty;
	for my $side (grep { defined $case->{"block_$_"} } qw(source target))
	{
		push @blockers, session($side, 'postgres', 'blocker');
		my $said = say_sql($blockers[-1], 'BEGIN; ' . fill($case->{"block_$side"}));
		die "$case->{name}: $said" if $said =~ /ERROR:  /;
	}
	my $got = run_case($case);
	clean($_) for @blockers;
	unlink "$disk.full" or die "cannot free the disk: $!" if defined $case->{disk};
	$got .= differences(($case->{db} // '') eq 'copy' ? 'copy' : ());
	$dirty = 0;
	is($got, $case->{expected}, "$case->{state}: $case->{name}");
	for my $side (grep { defined $case->{"undo_$_"} } qw(source target))
	{
		prepare($side, $case->{"undo_$side"});
		$dirty = 1;
	}
}

# Of what was dropped on the way cancel cleans up the rest, as the hints say.
for my $migration (grep { my $name = $_; grep { $_->{sql} =~ /'$name'/ } @cases } qw(busy lost))
{
	is((sqlstate_of($target, "CALL rehome.cancel('$migration')"))[0], '00000', "$migration can be cancelled");
	is($pair->sql_source("SELECT string_agg(tgname, ', ') FROM pg_trigger WHERE tgrelid = '$migration.item'::regclass AND tgname LIKE 'rehome%'"), '', "and no trigger of $migration is left at the source");
}

# What the errors look like.
{
	my @bad;
	for my $case (@cases)
	{
		my ($sqlstate, $message) = $case->{expected} =~ /^(.....): (.*)/;
		push @bad, "line $case->{line}: an internal error" if $sqlstate =~ /^XX/;
		push @bad, "line $case->{line}: no error"          if $sqlstate eq '00000';
		push @bad, "line $case->{line}: $message"          if $message =~ /^[A-Z][a-z]|[.!?]$/;
	}
	is(join("\n", @bad), '', 'every error is for the user, and its message begins in lower case and is no sentence');
	cmp_ok(scalar(@cases), '>=', 150, 'there are enough of them') unless $ENV{BAD_INPUT_ONLY};
}

unwatch($_) for values %watch;
$_->quit for values %session;
stop_bad_servers();
done_testing();
