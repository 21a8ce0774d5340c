# A database that is restored from a dump in the middle of a migration: every
# slice is paused, with the reason; nothing runs against the source until
# somebody says so; and if the original has gone on meanwhile, the copy is
# refused, not silently short of rows.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(
	preload     => 1,
	target_conf => join("\n",
		'rehome.naptime = 50ms',
		'rehome.launcher_naptime = 200ms',
		'rehome.retry_max = 300ms'));
my ($source, $target) = ($pair->source, $pair->target);

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL, code text UNIQUE);
	CREATE TABLE app.line (item int REFERENCES app.item, no int, note text, PRIMARY KEY (item, no));
	CREATE TABLE app.other (id int PRIMARY KEY, qty int NOT NULL);
	CREATE TABLE app.back (id int PRIMARY KEY, qty int NOT NULL);
	CREATE TABLE app.stuck (id int PRIMARY KEY, qty int NOT NULL, code text UNIQUE);
	CREATE TABLE app.later (id int PRIMARY KEY);
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{
	INSERT INTO app.item SELECT i, 0, 'c' || i FROM generate_series(1, 200) i;
	INSERT INTO app.line SELECT i, n, 'l' FROM generate_series(1, 200) i, generate_series(1, 2) n;
	INSERT INTO app.other SELECT i, 0 FROM generate_series(1, 50) i;
	INSERT INTO app.back SELECT i, 0 FROM generate_series(1, 50) i;
	INSERT INTO app.stuck SELECT i, 0, 'c' || i FROM generate_series(1, 50) i;
});
$pair->import_foreign_schema('app', 'app_source');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of restores');
	SELECT rehome.add_slice('m', 'second');
	SELECT rehome.add_slice('m', 'moved');
	SELECT rehome.add_slice('m', 'unfinished');
	SELECT rehome.add_slice('m', 'later');
	SELECT rehome.add_table('m', 'app_source.item', 'app.item');
	SELECT rehome.add_table('m', 'app_source.line', 'app.line');
	SELECT rehome.add_table('m', 'app_source.other', 'app.other', slice => 'second');
	SELECT rehome.add_table('m', 'app_source.back', 'app.back', slice => 'moved');
	SELECT rehome.add_table('m', 'app_source.stuck', 'app.stuck', slice => 'unfinished');
	SELECT rehome.add_table('m', 'app_source.later', 'app.later', slice => 'later');
	CALL rehome.start('m', 'main');
	CALL rehome.copy('m', 'second');
	CALL rehome.copy('m', 'moved');
	CALL rehome.cutover('m', 'moved');
});
ok($pair->wait_for_state('m', 'syncing', 'main'), 'in the middle of a migration');
# a copy that stops when all rows are there and no index is
isnt(finish_psql(start_psql($target, q{SET rehome.copy_workers = 0; CALL rehome.copy('m', 'unfinished')}, debug_point => 'rebuild:error'))->{sqlstate}, '00000', 'one slice has only begun');
my $states = q{SELECT string_agg(slice || ' ' || state, ', ' ORDER BY slice) FROM rehome.status};
my $middle = 'later planned, main syncing, moved cut_over, second syncing, unfinished copying';
is($pair->sql_target($states), $middle, 'slices in every state');
$pair->sql_source(q{UPDATE app.item SET qty = 1 WHERE id < 10; UPDATE app.other SET qty = 1 WHERE id < 10});
$pair->sql_target(q{UPDATE app.back SET qty = 1 WHERE id < 10; CALL rehome.sync('m', 'main'); CALL rehome.sync('m', 'second'); CALL rehome.sync('m', 'moved')});

# The dump, and its restore: in the same server, in another, and as plain SQL.
my $dump = $target->basedir . '/dump';
$target->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $target->connstr('postgres') ], 'pg_dump');
$target->command_ok([ 'pg_dump', '-f', "$dump.sql", $target->connstr('postgres') ], 'pg_dump as SQL');
my $events = $pair->sql_target('SELECT count(*) FROM rehome.event');

sub restore_into
{
	my ($node, $database, $plain) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	if ($plain)
	{
		$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database), '-f', "$dump.sql" ], "$database: psql restores the dump without an error");
	}
	else
	{
		$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($database), $dump ], "$database: pg_restore restores the dump without an error");
	}
	return;
}

my $reasons = q{SELECT bool_and(paused AND reason LIKE '%restored%') FROM rehome.status};
sub check_restored
{
	my ($node, $database) = @_;
	is($node->safe_psql($database, $states), $middle, "$database: every slice is there in its state");
	is($node->safe_psql($database, $reasons), 't', "$database: and paused, with the reason");
	is($node->safe_psql($database, 'SELECT count(*) FROM rehome.event'), $events, "$database: so is the history");
	my ($old, $new) = map { $_->[0]->safe_psql($_->[1], q{SELECT string_agg(t::text, ',' ORDER BY id) || (SELECT string_agg(l::text, ',' ORDER BY item, no) FROM app.line l) FROM app.item t}) } [ $target, 'postgres' ], [ $node, $database ];
	is($new, $old, "$database: and the rows");
	is($node->safe_psql($database, q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%' AND NOT tgisinternal}),
		$pair->sql_target(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%' AND NOT tgisinternal}), "$database: guards and captures are there");
	is($node->safe_psql($database, q{SELECT string_agg(tgenabled::text, '' ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger WHERE tgname LIKE 'rehome%'}),
		$pair->sql_target(q{SELECT string_agg(tgenabled::text, '' ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger WHERE tgname LIKE 'rehome%'}), "$database: as they were switched");

	for my $sql (
		(map { my $call = $_; map { "CALL rehome.$call('m', '$_')" } qw(main second) } qw(sync cutover)),
		q{CALL rehome.start('m', 'later')},
		q{CALL rehome.copy('m', 'unfinished')},
		q{CALL rehome.rollback('m', 'moved')}, q{CALL rehome.sync('m', 'moved')}, q{CALL rehome.complete('m', 'moved')},
		q{CALL rehome.recover('m')}, q{CALL rehome.recover()},
		q{SELECT * FROM rehome.verify('m', 'main')}, q{SELECT * FROM rehome.verify('m', 'moved')})
	{
		my ($sqlstate, $message, $detail, $hint) = sqlstate_of($node, $sql, $database);
		is($sqlstate, 'RH009', "$database: refused: $sql") or diag("$message\n$detail");
		like($hint, qr/rehome\.resume/, "$database: with the call that goes on: $sql");
	}
	my ($sqlstate, $message) = sqlstate_of($node, 'UPDATE app.item SET qty = 5 WHERE id = 1', $database);
	is($sqlstate, '25006', "$database: its tables are guarded") or diag($message);
	return;
}

# Sessions at the source that do not belong to the original.
sub source_is_left_alone
{
	my ($name, $code) = @_;
	$pair->sql_source(q{ALTER SYSTEM SET log_connections = on});
	$source->reload;
	$pair->sql_target(q{SELECT rehome.pause('m', s) FROM unnest(ARRAY['main', 'second', 'moved']) s});
	wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome%'});
	my $from = -s $source->logfile;
	my $traces = q{SELECT md5(string_agg(s::text, ',' ORDER BY s::text)) FROM rehome_source.slice s};
	my $before = $pair->sql_source($traces);
	$code->();
	unlike(PostgreSQL::Test::Utils::slurp_file($source->logfile, $from), qr/application_name=pg_rehome/, "$name: nobody has connected to the source");
	is($pair->sql_source($traces), $before, "$name: nothing has changed there");
	$pair->sql_target(q{SELECT rehome.resume('m', s) FROM unnest(ARRAY['main', 'second', 'moved']) s});
	return;
}

# A second server, as on another machine.
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init(extra => [ '--no-locale', '-E', 'UTF8' ]);
$other->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_rehome'\nrehome.databases = 'elsewhere'\nrehome.launcher_naptime = 100ms");
$other->start;
$pair->sql_target(q{LOAD 'pg_rehome'; ALTER SYSTEM SET rehome.databases = 'postgres, restored, plain'});
$target->reload;

source_is_left_alone('restore', sub {
	restore_into($target, 'restored');
	restore_into($target, 'plain', 1);
	$other->safe_psql('postgres', 'CREATE ROLE rehome_reader; CREATE ROLE rehome_operator; CREATE ROLE rehome_admin');
	restore_into($other, 'elsewhere');
	check_restored($target, 'restored');
	check_restored($target, 'plain');
	check_restored($other, 'elsewhere');
	# the launchers have looked round several times
	my $now = $pair->sql_target('SELECT clock_timestamp()');
	wait_until($target, "SELECT clock_timestamp() > '$now'::timestamptz + '1 s'");
	for my $in ([ $target, 'restored' ], [ $target, 'plain' ], [ $other, 'elsewhere' ])
	{
		is($in->[0]->safe_psql($in->[1], q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync' AND datname = current_database()}), 0, "$in->[1]: no worker runs");
	}
});

# The original has not noticed.
$pair->sql_source(q{UPDATE app.item SET qty = 2 WHERE id < 20; UPDATE app.other SET qty = 2 WHERE id < 20});
$pair->sql_target(q{CALL rehome.sync('m', 'main'); CALL rehome.sync('m', 'second')});
is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('m', 'main')}), 't', 'the original goes on');

# It has gone on, and what it has applied is pruned: the copy can never catch up.
for my $slice ('main', 'second')
{
	$pair->sql_source('UPDATE app.item SET qty = 3 WHERE id = 30; UPDATE app.other SET qty = 3 WHERE id = 30');
	$pair->sql_target("CALL rehome.sync('m', '$slice')");
}
$pair->sql_target(q{UPDATE app.back SET qty = 3 WHERE id = 30; CALL rehome.sync('m', 'moved')});
is($pair->sql_source('SELECT qty FROM app.back WHERE id = 30'), 3, 'the original has brought back what was written since');
ok(wait_until($source, q{SELECT bool_and(pruned IS NOT NULL) FROM rehome_source.slice WHERE authority = 'source' AND slice IN (1, 2)}), 'the original has pruned');
for my $in ([ $target, 'restored' ], [ $other, 'elsewhere' ])
{
	my ($node, $database) = @$in;
	my $before = $node->safe_psql($database, 'SELECT md5(string_agg(t::text, chr(10) ORDER BY id)) FROM app.item t');
	my $held  = q{SELECT authority || ' ' || holder FROM rehome_source.slice WHERE slice = 3};
	my $fence = $pair->sql_source($held);
	# resume() itself may refuse, or what follows it
	my ($sqlstate, $message, $detail, $hint) = sqlstate_of($node, q{SELECT rehome.resume('m', 'main')}, $database);
	($sqlstate, $message, $detail, $hint) = sqlstate_of($node, q{CALL rehome.sync('m', 'main')}, $database) if $sqlstate eq '00000';
	is($sqlstate, 'RH006', "$database: resumed, the stale copy is refused") or diag("$message\n$detail");
	like($hint, qr/rehome\.cancel/, "$database: with what can be done");
	my ($cutover) = sqlstate_of($node, q{CALL rehome.cutover('m', 'main')}, $database);
	like($cutover, qr/^RH00[69]$/, "$database: it cannot be cut over");
	is($node->safe_psql($database, 'SELECT md5(string_agg(t::text, chr(10) ORDER BY id)) FROM app.item t'), $before, "$database: it has no rows that are neither old nor new");

	# nor may it take the slice that the original has cut over
	($sqlstate) = sqlstate_of($node, q{SELECT rehome.resume('m', 'moved')}, $database);
	($sqlstate, $message) = sqlstate_of($node, q{CALL rehome.sync('m', 'moved')}, $database) if $sqlstate eq '00000';
	isnt($sqlstate, '00000', "$database: nor is the slice that was cut over brought back to the source from here") or diag($message);
	$node->psql($database, q{CALL rehome.rollback('m', 'moved')});
	is($pair->sql_source($held), $fence, "$database: and the source's fence is not opened by it");
	is((sqlstate_of($source, 'UPDATE app.back SET qty = 9 WHERE id = 9'))[0], '25006', "$database: the source refuses writes to what was cut over");
	$node->psql($database, q{SELECT rehome.pause('m', 'main'); SELECT rehome.pause('m', 'moved')});
}

# The original is unharmed by all that.
$pair->sql_source(q{UPDATE app.item SET qty = 4 WHERE id < 40; UPDATE app.other SET qty = 4 WHERE id < 40});
$pair->sql_target(q{UPDATE app.back SET qty = 4 WHERE id < 40; CALL rehome.copy('m', 'unfinished')});
for my $slice ('main', 'second', 'moved', 'unfinished')
{
	my ($sqlstate, $message, $detail) = sqlstate_of($target, "CALL rehome.sync('m', '$slice')");
	is($sqlstate, '00000', "the original goes on with $slice") or diag("$message\n$detail");
}
same_content($pair, [qw(app.item app.line app.other app.back app.stuck)], 'the same content on both sides of the original');
is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('m', 'main')}), 't', 'verification agrees');

# A copy whose original is gone, with nothing pruned meanwhile, goes on for it.
{
	my $heir = new_pair(prefix => 'heir_');
	my $plain = q{CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, code text UNIQUE)};
	$heir->sql_source("$plain; INSERT INTO app.t SELECT i, 'c' || i FROM generate_series(1, 100) i");
	$heir->sql_target($plain);
	$heir->sql_target(q{SELECT rehome.create_migration('m', 'src', 'a test of restores'); SELECT rehome.add_schema('m', 'app', 'app'); CALL rehome.copy('m')});
	my $file = $heir->target->basedir . '/dump';
	$heir->target->command_ok([ 'pg_dump', '-Fc', '-f', $file, $heir->target->connstr('postgres') ], 'heir: dumped');
	$heir->target->safe_psql('postgres', 'CREATE DATABASE heir');
	$heir->target->command_ok([ 'pg_restore', '--exit-on-error', '-d', $heir->target->connstr('heir'), $file ], 'heir: restored');
	$heir->sql_source(q{DELETE FROM app.t WHERE id < 10; UPDATE app.t SET id = -id WHERE id < 20; INSERT INTO app.t VALUES (500, 'new')});
	$heir->target->safe_psql('heir', q{SELECT rehome.resume('m'); CALL rehome.sync('m')});
	is($heir->target->safe_psql('heir', 'SELECT string_agg(t::text, chr(10) ORDER BY id) FROM app.t'), $heir->sql_source('SELECT string_agg(t::text, chr(10) ORDER BY id) FROM app.t'),
		'heir: resumed, it has all that was written meanwhile');
	is($heir->target->safe_psql('heir', q{SELECT paused::text || coalesce(reason, '') FROM rehome.status}), 'false', 'heir: and is paused no more');
	is($heir->target->safe_psql('heir', q{SELECT bool_and(ok) FROM rehome.verify('m', mode => 'rows')}), 't', 'heir: verification agrees');
	# now the one that it was restored from is the stale one
	$heir->sql_source(q{UPDATE app.t SET code = 'x' || code});
	$heir->target->safe_psql('heir', q{CALL rehome.sync('m')});
	my ($sqlstate, $message) = sqlstate_of($heir->target, q{CALL rehome.sync('m')});
	is($sqlstate, 'RH006', 'heir: the one that it was restored from is refused now') or diag($message);
}

done_testing();
