# Sparing the source: rehome.max_rate holds up reading, and nothing is begun
# while the source is busier than rehome.max_source_backends allows, or one of
# its replicas further behind than rehome.max_replica_lag; status and progress
# say so.  Also the small tables that keep their indexes.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use RehomeTest;

my $pair = new_pair(
	init        => { allows_streaming => 1 },
	target_conf => "max_worker_processes = 16\nrehome.naptime = 50ms");
my ($source, $target) = ($pair->source, $pair->target);

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.large (id int PRIMARY KEY, code text UNIQUE, pad text);
	CREATE TABLE app.small (id int PRIMARY KEY, code text UNIQUE);
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{
	INSERT INTO app.large SELECT g, 'c' || g, repeat('x', 200) FROM generate_series(1, 15000) g;
	INSERT INTO app.small SELECT g, 'c' || g FROM generate_series(1, 100) g;
});

sub define
{
	my ($name) = @_;
	$pair->sql_target(qq{SELECT rehome.create_migration('$name', 'src', 'sparing the source');
		SELECT rehome.add_schema('$name', 'app', 'app')});
	return;
}

sub forget
{
	my ($name) = @_;
	$pair->sql_target("CALL rehome.cancel('$name')");
	$pair->sql_target("SELECT rehome.drop_migration('$name'); TRUNCATE app.large, app.small");
	return;
}

# ---------------------------------------------------------------------------
# Small tables keep their indexes, and large ones get them back.
define('k');
my $oids = q{SELECT string_agg(indexrelid::text, ',' ORDER BY indexrelid) FROM pg_index WHERE indrelid = 'app.%s'::regclass};
my %before = map { $_ => $pair->sql_target(sprintf $oids, $_) } qw(large small);
$pair->sql_target(q{SET rehome.keep_indexes_below = '512kB'; CALL rehome.copy('k')});
is($pair->sql_target(sprintf $oids, 'small'), $before{small}, 'a small table keeps its indexes');
isnt($pair->sql_target(sprintf $oids, 'large'), $before{large}, 'those of a large one are built anew');
is($pair->sql_target(q{SELECT string_agg(DISTINCT relation::text, ',') FROM rehome.saved_object}), 'app.large', 'only they were stored');
same_content($pair, [ 'app.large', 'app.small' ], 'both are copied');
forget('k');

# ---------------------------------------------------------------------------
# A rate is kept, by all workers together.
define('r');
my $bytes = $pair->sql_source(q{SELECT pg_relation_size('app.large')});
my $began = time;
$pair->sql_target(q{SET rehome.max_rate = '1MB'; SET rehome.chunk_size = '256kB'; CALL rehome.copy('r')});
my $took = time - $began;
cmp_ok($took, '>', 0.5 * $bytes / 1024 / 1024, "copy of $bytes bytes at 1 MB a second took $took s");
same_content($pair, [ 'app.large', 'app.small' ], 'nothing is lost by being slow');
forget('r');

# ---------------------------------------------------------------------------
# A busy source is left alone.
define('b');
my $lock = hold_lock($source, 180, 1);
my @busy = map { start_psql($source, 'SELECT pg_advisory_lock(180, 1)') } 1 .. 3;
ok(wait_until($source, q{SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND classid = 180 AND NOT granted}), 'three sessions are at work');
my $stopper = hold_lock($target, debug_lock());
my $copy = start_psql($target, q{CALL rehome.copy('b')}, debug_point => 'chunk-loaded:wait', options => '-c rehome.max_source_backends=2 -c rehome.copy_workers=0');
ok(wait_until($target, q{SELECT throttled = '3 sessions are active at the source' FROM rehome.status WHERE migration = 'b'}), 'status says why nothing is begun');
is($pair->sql_target(q{SELECT count(DISTINCT throttled) || ' ' || sum(chunks_done) FROM rehome.progress WHERE migration = 'b'}), '1 0', 'so does progress, and no chunk is copied');
$lock->query_safe('SELECT pg_advisory_unlock(180, 1)');
is(finish_psql($_)->{sqlstate}, '00000', 'a session is done') for @busy;
$lock->quit;
# A piece of work may take an hour: whoever pauses, or works too, does not wait for it.
ok(wait_for_lock_waiter($target, debug_lock()), 'the copy begins a piece of work');
is((sqlstate_of($target, q{SET statement_timeout = '10s'; BEGIN; SELECT rehome.pause('b'); ROLLBACK}))[0], '00000', 'the slice is not locked meanwhile');
$stopper->quit;
is(finish_psql($copy)->{sqlstate}, '00000', 'the copy goes on by itself');
is($pair->sql_target(q{SELECT state || coalesce(throttled, ', not throttled') FROM rehome.status WHERE migration = 'b'}), 'syncing, not throttled', 'and status says no more');
same_content($pair, [ 'app.large', 'app.small' ], 'all is copied');

# So is a source that is being compared, and progress tells how far that is.
$stopper = hold_lock($target, debug_lock());
my $verify = start_psql($target, q{SELECT count(*), bool_and(ok) FROM rehome.verify('b')}, debug_point => 'verify-part:wait');
ok(wait_for_lock_waiter($target, debug_lock()), 'a verification is stopped before its first table');
my $how_far = q{SELECT phase, target, chunks_done, chunks, rows_done, rows_total >= 15000, pid > 0, since < clock_timestamp() FROM rehome.progress WHERE migration = 'b'};
is($pair->sql_target($how_far), 'verifying|app.large|0|2|0|t|t|t', 'it is at the first of two tables');
$stopper->quit;
my $told = finish_psql($verify);
is("$told->{sqlstate} $told->{stdout}", "00000 2|t\n", 'and goes on');
is($pair->sql_target($how_far), '', 'progress says no more');
$lock = hold_lock($source, 180, 1);
@busy = map { start_psql($source, 'SELECT pg_advisory_lock(180, 1)') } 1 .. 3;
ok(wait_until($source, q{SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND classid = 180 AND NOT granted}), 'three sessions are at work again');
$verify = start_psql($target, q{SELECT count(*), bool_and(ok) FROM rehome.verify('b', incremental => true)}, options => '-c rehome.max_source_backends=2');
ok(wait_until($target, q{SELECT count(*) = 1 FROM rehome.progress WHERE migration = 'b' AND phase = 'waiting for the source'}), 'a verification waits, and says so');
$lock->query_safe('SELECT pg_advisory_unlock(180, 1)');
is(finish_psql($_)->{sqlstate}, '00000', 'a session is done') for @busy;
$lock->quit;
$told = finish_psql($verify);
is("$told->{sqlstate} $told->{stdout}", "00000 2|t\n", 'then it goes on by itself');
like($told->{stderr}, qr/NOTICE:.*verification waits for the source: 3 sessions are active at the source/, 'and has said why it waited');
forget('b');

# ---------------------------------------------------------------------------
# A replica that lags holds up sync, and sync catches up when it has.
$source->backup('base');
my $replica = PostgreSQL::Test::Cluster->new('replica', install_path => $source->install_path);
$replica->init_from_backup($source, 'base', has_streaming => 1);
$replica->append_conf('postgresql.conf', 'wal_receiver_status_interval = 1');
$replica->start;
$source->wait_for_catchup($replica);
define('l');
$pair->sql_target(q{CALL rehome.copy('l')});
$target->append_conf('postgresql.conf', q{rehome.max_replica_lag = '1MB'});
$target->reload;
$replica->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$pair->sql_source(q{INSERT INTO app.small VALUES (1001, 'late'); UPDATE app.large SET pad = pad || 'y'});
$pair->sql_target(q{CALL rehome.start('l')});
ok(wait_until($target, q{SELECT throttled ~ '^replica replica of the source is .* behind$' FROM rehome.status WHERE migration = 'l'}), 'status names the replica');
is($pair->sql_target('SELECT count(*) FROM app.small WHERE id = 1001'), '0', 'the change has not come');
$replica->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
ok(wait_until($target, 'SELECT count(*) = 1 FROM app.small WHERE id = 1001'), 'when the replica has caught up it comes');
ok(wait_until($target, q{SELECT throttled IS NULL FROM rehome.status WHERE migration = 'l'}), 'and status says no more');
forget('l');

$_->stop for $replica, $target, $source;
done_testing();
