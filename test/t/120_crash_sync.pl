# Whatever dies while the worker keeps a slice in sync, in either direction: it
# goes on by itself, and what it brings is exact.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(
	fsync       => 1,
	preload     => 1,
	target_conf => join("\n",
		'restart_after_crash = on',
		'rehome.launcher_naptime = 200ms',
		'rehome.retry_max = 200ms',
		'rehome.naptime = 20ms'));
my ($source, $target) = ($pair->source, $pair->target);
my $content = [qw(app.item app.line)];

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL DEFAULT 0, code text UNIQUE);
	CREATE TABLE app.line (item int, no int, note text, PRIMARY KEY (item, no));
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{
	CREATE TABLE public.heartbeat (at timestamptz DEFAULT now());
	INSERT INTO app.item SELECT i, 0, 'code ' || i FROM generate_series(1, 500) i;
	INSERT INTO app.line SELECT i, n, 'line' FROM generate_series(1, 500) i, generate_series(1, 3) n;
});
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of what dies when');
	SELECT rehome.add_schema('m', 'app', 'app');
	CALL rehome.start('m');
});
ok($pair->wait_for_state('m', 'syncing'), 'in sync');

# Updates, updates of keys, inserts and deletes.
my $load = q{
\set a random(1, 500)
\set b random(1, 500)
\set n random(1, 6)
BEGIN;
UPDATE app.item SET qty = qty + 1 WHERE id = :a;
UPDATE app.item SET id = -id WHERE abs(id) = :b;
INSERT INTO app.line VALUES (:a, :n, 'new') ON CONFLICT (item, no) DO UPDATE SET note = app.line.note || '.';
DELETE FROM app.line WHERE item = :b AND no = :n;
COMMIT;
};

sub start_load
{
	my ($node) = @_;
	return start_pgbench($node, $load, clients => 2, rate => 200);
}

# A load whose server was killed ends with it; the next one.
sub again
{
	my ($load_before) = @_;
	finish_pgbench($load_before);
	return start_load($load_before->{node});
}

# Stops the worker at a debug point, calls the action, and lets go.
sub at_point
{
	my ($point, $action) = @_;
	my $lock = hold_lock($target, debug_lock());
	$pair->sql_target("ALTER SYSTEM SET rehome.debug_point = '$point:wait'");
	$target->reload;
	my $pid = wait_for_lock_waiter($target, debug_lock()) or BAIL_OUT("no worker stops at $point");
	is($pair->sql_target("SELECT backend_type FROM pg_stat_activity WHERE pid = $pid"), 'pg_rehome sync', "the worker stops at $point");
	$pair->sql_target('ALTER SYSTEM RESET rehome.debug_point');
	$target->reload;
	$action->($pid);
	$lock->{run}->kill_kill;
	return;
}

# The worker is back, moves rows again, and all is equal at one snapshot.
sub goes_on
{
	my ($name) = @_;
	ok(wait_until($target, 'SELECT worker IS NOT NULL AND error IS NULL FROM rehome.status'), "$name: the worker is back by itself");
	my $batches = $pair->sql_target('SELECT batches FROM rehome.status');
	ok(wait_until($target, "SELECT batches > $batches + 1 AND staleness < '10 s' FROM rehome.status"), "$name: and moves rows");
	is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('m', mode => 'rows')}), 't', "$name: both sides are equal at one snapshot");
	return;
}

my %death = (
	'the worker is killed' => sub { kill 9, $_[0]; wait_until($target, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $_[0])") },
	'the worker is terminated' => sub { $pair->sql_target("SELECT pg_terminate_backend($_[0], 10000)") },
	'the target is killed' => sub { kill_and_start($target) },
	'the source is killed' => sub {
		# what was written so far is on disk, what its sessions do while they end is not
		$pair->sql_source('INSERT INTO public.heartbeat DEFAULT VALUES');
		kill_and_start($source);
	});

my $writer = start_load($source);
for my $point (qw(batch-read batch-applied))
{
	for my $what (sort keys %death)
	{
		at_point($point, $death{$what});
		$writer = again($writer) if $what eq 'the source is killed';
		goes_on("$point, $what");
	}
}
cmp_ok(stop_pgbench($writer)->{committed}, '>', 0, 'writers were at work');
$pair->sql_target(q{CALL rehome.sync('m')});
same_content($pair, $content, 'after all that, the same content on both sides');

# From here on what nobody waits for stays in memory, where a crash finds it.
for my $node ($source, $target)
{
	$node->safe_psql('postgres', q{ALTER SYSTEM SET wal_writer_delay = '10s'});
	$node->reload;
}

# Transaction ids that never reached the disk are given out again after a crash.
# A position must not have counted them as seen.
{
	my $burner = $source->background_psql('postgres');
	$burner->query_safe('CHECKPOINT');
	$burner->query_safe('BEGIN; SELECT txid_current(); ROLLBACK') for 1 .. 3;
	# in a transaction, so that no pruning follows, which would write to the source
	$pair->sql_target(q{BEGIN; CALL rehome.sync('m'); COMMIT});
	my $seen = $pair->sql_target(q{SELECT split_part(position, ':', 2) FROM rehome.status});
	kill_and_start($source);
	my @ids = map { $pair->sql_source('UPDATE app.item SET qty = -1, id = id + 100000 WHERE id = (SELECT min(id) FROM app.item) RETURNING txid_current()') } 1 .. 3;
	cmp_ok($ids[0], '>=', $seen, 'reused ids: after a crash the source gives out none that the position had seen');
	$pair->sql_target(q{CALL rehome.sync('m')});
	same_content($pair, $content, 'reused ids: what was written after the crash has come');
}

# A commit that the source did not wait to have on disk may be lost with it.  The
# target must not have what the source has not.
{
	my $hasty = $source->background_psql('postgres');
	$hasty->query_safe(q{SET synchronous_commit = off});
	$hasty->query_safe(q{INSERT INTO app.line VALUES (7, 777, 'will it last?')});
	# In a transaction, so that no pruning follows, which would write to the source.
	$pair->sql_target(q{BEGIN; CALL rehome.sync('m'); COMMIT});
	kill_and_start($source);
	$pair->sql_target(q{CALL rehome.sync('m')});
	same_content($pair, $content, 'lost commits: what the source has lost, the target does not have');
}

# The same on the way back.
$pair->sql_target(q{CALL rehome.cutover('m')});
$writer = start_load($target);
for my $what (sort keys %death)
{
	at_point('reverse-applied', $death{$what});
	$writer = again($writer) if $what =~ /killed/ && $what !~ /source/;
	goes_on("back, reverse-applied, $what");
}
cmp_ok(stop_pgbench($writer)->{committed}, '>', 0, 'back: writers were at work');
$pair->sql_target(q{CALL rehome.sync('m')});
same_content($pair, $content, 'back: the same content on both sides');

{
	my $burner = $target->background_psql('postgres');
	$burner->query_safe('SET client_min_messages = warning');
	$burner->query_safe('CHECKPOINT');
	$burner->query_safe('BEGIN; SELECT txid_current(); ROLLBACK') for 1 .. 3;
	# the source commits what this brings, the target never does
	$burner->query_safe(q{BEGIN; CALL rehome.sync('m')});
	my $seen = $pair->sql_source(q{SELECT split_part(reverse_position, ':', 2) FROM rehome_source.slice});
	kill_and_start($target);
	my @ids = map { $pair->sql_target('UPDATE app.item SET qty = -2, id = id - 200000 WHERE id = (SELECT max(id) FROM app.item) RETURNING txid_current()') } 1 .. 3;
	cmp_ok($ids[0], '>=', $seen, 'back, reused ids: after a crash the target gives out none that the position had seen');
	$pair->sql_target(q{CALL rehome.sync('m')});
	same_content($pair, $content, 'back, reused ids: what was written after the crash has come');
}

# A commit that the target lost must not stay at the source.
{
	my $hasty = $target->background_psql('postgres');
	$hasty->query_safe(q{SET synchronous_commit = off; SET client_min_messages = warning});
	$hasty->query_safe(q{INSERT INTO app.line VALUES (8, 888, 'will it last?')});
	$hasty->query_safe(q{BEGIN; CALL rehome.sync('m')});
	kill_and_start($target);
	$pair->sql_target(q{CALL rehome.sync('m')});
	same_content($pair, $content, 'back, lost commits: what the target has lost, the source does not have');
}

$pair->sql_target(q{CALL rehome.rollback('m')});
ok($pair->wait_for_state('m', 'syncing'), 'rolled back');
$pair->sql_source(q{UPDATE app.item SET qty = 0});
$pair->sql_target(q{CALL rehome.sync('m')});
same_content($pair, $content, 'in the end, the same content on both sides');

done_testing();
