# Locks are asked for briefly and given up: whoever blocks is named, nobody else
# waits longer than rehome.lock_timeout.  And whatever a session has seen before
# authority moved, it cannot write on the wrong side afterwards.
use strict;
use warnings;

use RehomeTest;
use Test::More;
use Time::HiRes qw(time);

my $lock_timeout = 300;
my $retries      = 3;
# A writer's own time, on a machine that is busy with other things.
my $slack = 600;

my $pair = new_pair(source_conf => 'max_prepared_transactions = 5', target_conf => "max_prepared_transactions = 5\nrehome.lock_timeout = $lock_timeout\nrehome.lock_retries = $retries\nrehome.naptime = 50ms");
my ($source, $target) = ($pair->source, $pair->target);
my @content = qw(app.item app.part app.count);

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL);
	CREATE TABLE app.part (id int PRIMARY KEY, qty int NOT NULL) PARTITION BY RANGE (id);
	CREATE TABLE app.part_1 PARTITION OF app.part FOR VALUES FROM (0) TO (50);
	CREATE TABLE app.part_2 PARTITION OF app.part FOR VALUES FROM (50) TO (1000);
	CREATE TABLE app.count (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{
	INSERT INTO app.item SELECT i, 0 FROM generate_series(1, 100) i;
	INSERT INTO app.part SELECT i, 0 FROM generate_series(1, 100) i;
});
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of locks');
	SELECT rehome.add_schema('m', 'app', 'app');
});

my $loads = 0;
my $committed = 0;

# Writers of the other rows, who lock the tables in either order, while the code
# runs; returns their longest wait in
# milliseconds, and the sum of what they committed goes to $committed.
sub longest_wait
{
	my ($node, $code, %option) = @_;
	my $sleep = $option{sleep} // 5;
	my $prefix = $node->basedir . '/latency_' . ++$loads;
	my $writer = start_pgbench($node, qq{
\\set odd :client_id % 2
\\set a 2 * random(6, 49) + :odd
BEGIN;
\\if :odd
UPDATE app.item SET qty = qty + 1 WHERE id = :a;
UPDATE app.part SET qty = qty + 1 WHERE id = :a;
INSERT INTO app.count (n) VALUES (:a);
\\else
INSERT INTO app.count (n) VALUES (:a);
UPDATE app.part SET qty = qty + 1 WHERE id = :a;
UPDATE app.item SET qty = qty + 1 WHERE id = :a;
\\endif
COMMIT;
\\sleep $sleep ms
}, clients => $option{clients} // 2, args => [ '-l', "--log-prefix=$prefix" ]);
	my $began = $node->safe_psql('postgres', 'SELECT count(*) FROM app.count');
	wait_until($node, "SELECT count(*) > $began + 10 FROM app.count") or BAIL_OUT('the writers do not write');
	$code->();
	my $result = stop_pgbench($writer);
	is_deeply($result->{errors}, [], 'no writer met an error');
	$committed += $result->{committed};
	my $longest = 0;
	for my $line (map { split /\n/, PostgreSQL::Test::Utils::slurp_file($_) } glob "$prefix.*")
	{
		my $us = (split / /, $line)[2];
		$longest = $us / 1000 if $us / 1000 > $longest;
	}
	note("longest wait: $longest ms");
	return $longest;
}

# Everything that the writers saw committed is there, once, on both sides.
sub nothing_lost
{
	my ($name) = @_;
	$pair->sql_target(q{CALL rehome.sync('m')});
	same_content($pair, \@content, "$name: the same content on both sides");
	is($pair->sql_target('SELECT count(*) FROM app.count'), $committed, "$name: what writers saw committed is there once");
	return;
}

# A session in a transaction that has done this; and its pid.
sub blocker
{
	my ($node, $sql) = @_;
	my $session = $node->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe("BEGIN; $sql");
	return ($session, $pid);
}

sub authority
{
	return $pair->sql_target('SELECT authority FROM rehome.status') . ' ' . $pair->sql_source('SELECT authority FROM rehome_source.slice');
}

my $write = 'UPDATE app.item SET qty = qty + 1 WHERE id = 1';

sub takers
{
	my %sqlstate = map { $_->name => (sqlstate_of($_, "SET lock_timeout = '5s'; $write"))[0] } $source, $target;
	return join ' ', map { "$_ $sqlstate{$_}" } sort keys %sqlstate;
}

# Capture is installed in spite of a long transaction, when that ends.
{
	my ($session) = blocker($source, 'UPDATE app.item SET qty = qty WHERE id = 1');
	my $copy;
	my $wait = longest_wait($source, sub {
		my $from = -s $source->logfile;
		# often enough for the time that it takes to end the writers
		$copy = start_psql($target, q{CALL rehome.copy('m')}, options => '-c rehome.lock_retries=30');
		# more than one try
		for (1 .. 2)
		{
			$source->wait_for_log(qr/canceling statement due to lock timeout/, $from);
			my ($log) = PostgreSQL::Test::Utils::slurp_file($source->logfile, $from);
			$from += $+[0] if $log =~ /canceling statement due to lock timeout/;
		}
	});
	cmp_ok($wait, '<', $lock_timeout + $slack, 'capture: behind a long writer no other waits longer than rehome.lock_timeout');
	ok(psql_running($copy), 'capture: the copy tries again');
	$session->query_safe('COMMIT');
	my $result = finish_psql($copy);
	is($result->{sqlstate}, '00000', 'capture: and ends well when the writer has ended') or diag($result->{stderr});
	$session->quit;
	nothing_lost('capture');
}

# Sync that cannot lock a target leaves no transaction open at the source.
{
	my ($session, $pid) = blocker($target, 'LOCK TABLE app.item IN SHARE MODE');
	$source->safe_psql('postgres', 'UPDATE app.item SET qty = qty + 1 WHERE id = 2');
	my $sync = start_psql($target, q{SET rehome.lock_retries = 1000; CALL rehome.sync('m')}, name => 'syncer');
	my $seen = q{SELECT coalesce(min(xact_start)::text, 'none') FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome sync%'};
	wait_until($target, "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name = 'syncer' AND $pid = ANY (pg_blocking_pids(a.pid)))")
	  or diag('sync does not wait for the lock');
	my $first = $source->safe_psql('postgres', $seen);
	ok(wait_until($source, "SELECT ($seen) <> '$first'"), 'sync behind a lock: its source transaction has ended');
	ok(psql_running($sync), 'sync behind a lock: while it goes on trying');
	$session->query_safe('COMMIT');
	$session->quit;
	my $result = finish_psql($sync);
	is($result->{sqlstate}, '00000', 'sync behind a lock: and succeeds when it has ended') or diag($result->{stderr});
	like($result->{stderr}, qr/\bpid $pid\b.*holds ShareLock on app\.item/s, 'sync behind a lock: it has named who is in the way');
	nothing_lost('sync behind a lock');
}

# Someone has one table for himself, and wants another one next: who reads both
# does not wait with the one in hand.
sub waits_for
{
	my ($node, $pid, $who) = @_;
	return wait_until($node, "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE $who AND $pid = ANY (pg_blocking_pids(a.pid)))");
}
my $both = 'UPDATE app.item SET qty = qty + 1 WHERE id = 3; UPDATE app.part SET qty = qty + 1 WHERE id = 3;';
my %sql = (sync => q{CALL rehome.sync('m')}, verify => q{DO $$ BEGIN ASSERT (SELECT bool_and(ok) FROM rehome.verify('m')); END $$});
{
	for my $call (qw(sync verify))
	{
		for my $first (qw(part item))
		{
			my $second = $first eq 'part' ? 'item' : 'part';
			my $name = "app.$first locked at the source, $call";
			$pair->sql_source($both) if $call eq 'sync';
			my ($session, $pid) = blocker($source, "LOCK TABLE app.$first");
			my $caller = start_psql($target, "SET rehome.lock_retries = 1000; $sql{$call}");
			ok(waits_for($source, $pid, "a.application_name LIKE 'pg_rehome $call%'"), "$name: it waits");
			is($session->query("LOCK TABLE app.$second, app.count; SELECT 'locked'"), 'locked', "$name: app.$second is locked as well, in the same transaction");
			$session->query('COMMIT');
			$session->quit;
			my $result = finish_psql($caller);
			is($result->{sqlstate}, '00000', "$name: it succeeds when that has ended") or diag($result->{stderr});
			nothing_lost($name);
		}
	}
	# a table that has taken the place of the one that was to be read
	$pair->sql_source($both);
	$pair->sql_source('CREATE TABLE app.twin (LIKE app.item INCLUDING ALL)');
	my ($session, $pid) = blocker($source, 'ALTER TABLE app.item RENAME TO item_old; ALTER TABLE app.twin RENAME TO item');
	my $sync = start_psql($target, q{SET rehome.lock_timeout = '60s'; SET rehome.lock_retries = 1000; CALL rehome.sync('m')}, name => 'syncer');
	ok(waits_for($source, $pid, q{a.application_name LIKE 'pg_rehome sync%'}), 'a table that is exchanged: sync waits');
	$session->query_safe('COMMIT');
	is(finish_psql($sync)->{sqlstate}, 'RH009', 'a table that is exchanged: sync says what it has left out');
	is($pair->sql_target('SELECT count(*) FROM app.item'), 100, 'a table that is exchanged: the other one is not read');
	$session->query_safe('BEGIN; ALTER TABLE app.item RENAME TO twin; ALTER TABLE app.item_old RENAME TO item; DROP TABLE app.twin; COMMIT');
	$session->quit;
	$pair->sql_target(q{SELECT rehome.resume_table('m', 'app.item')});
	nothing_lost('a table that is exchanged');

	# a partition that has been marked, and is let go when nobody reads it any more; before 14 there is no such mark
	if ($source->pg_version >= 14)
	{
		$pair->sql_source('CREATE TABLE app.part_3 PARTITION OF app.part FOR VALUES FROM (2000) TO (2050); INSERT INTO app.part VALUES (2000, 0)');
		$pair->sql_target('CREATE TABLE app.part_3 PARTITION OF app.part FOR VALUES FROM (2000) TO (2050)');
		nothing_lost('another partition');
		my ($reader) = blocker($source, 'LOCK TABLE app.part IN ACCESS SHARE MODE');
		my $detach = start_psql($source, 'ALTER TABLE app.part DETACH PARTITION app.part_3 CONCURRENTLY', name => 'detacher');
		ok(wait_until($source, q{SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'app.part_3'::regclass}), 'a partition that is about to go: it is marked');
		nothing_lost('a partition that is about to go');
		is($pair->sql_target('SELECT count(*) FROM app.part WHERE id = 2000'), 0, 'a partition that is about to go: its rows are not part of the table any more');
		$reader->quit;
		is(finish_psql($detach)->{sqlstate}, '00000', 'a partition that is about to go: has gone');
		nothing_lost('a partition that has gone');
		$pair->sql_source('DROP TABLE app.part_3');
		$pair->sql_target('DROP TABLE app.part_3');
	}

	$pair->sql_source($both);
	($session, $pid) = blocker($source, 'LOCK TABLE app.part_1');
	my ($sqlstate, $message, $detail) = sqlstate_of($target, q{CALL rehome.sync('m')});
	is($sqlstate, 'RH004', 'a partition locked at the source: sync gives up') or diag("$message\n$detail");
	like($detail, qr/\Apid $pid \(.*holds AccessExclusiveLock on app\.part_1/, 'a partition locked at the source: and says who is in the way');
	unlike($detail, qr/\n.*pid/, 'a partition locked at the source: which nobody else is');
	$session->quit;
	nothing_lost('a partition locked at the source');

	# who waits for it counts as well
	$pair->sql_source($both);
	my ($reader) = blocker($source, 'LOCK TABLE app.item IN ACCESS SHARE MODE');
	my $ddl = start_psql($source, 'BEGIN; LOCK TABLE app.item; COMMIT', name => 'queued');
	ok(wait_until($source, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'queued' AND wait_event_type = 'Lock')}), 'DDL that waits at the source');
	($sqlstate, $message, $detail) = sqlstate_of($target, q{CALL rehome.sync('m')});
	is($sqlstate, 'RH004', 'DDL that waits at the source: sync gives up') or diag("$message\n$detail");
	like($detail, qr/waits for AccessExclusiveLock on app\.item/, 'DDL that waits at the source: and names it');
	$reader->quit;
	finish_psql($ddl);
	nothing_lost('DDL that waits at the source');
}

# The same at the target.
sub target_locked
{
	my ($when) = @_;
	for my $call (qw(sync verify))
	{
		for my $first (qw(part item))
		{
			my $second = $first eq 'part' ? 'item' : 'part';
			my $name = "$when, app.$first locked at the target, $call";
			my $node = $when eq 'syncing' ? $source : $target;
			$node->safe_psql('postgres', $both);
			my ($session, $pid) = blocker($target, "LOCK TABLE app.$first");
			$node->safe_psql('postgres', $both) if $when eq 'syncing';
			my $caller = start_psql($target, "SET rehome.lock_retries = 1000; $sql{$call}", name => 'caller');
			ok(waits_for($target, $pid, q{a.application_name = 'caller'}), "$name: it is waited for");
			is($session->query("LOCK TABLE app.$second, app.count; SELECT 'locked'"), 'locked', "$name: so is app.$second, in the same transaction");
			$session->query('COMMIT');
			$session->quit;
			my $result = finish_psql($caller);
			is($result->{sqlstate}, '00000', "$name: it succeeds when that has ended") or diag($result->{stderr});
			nothing_lost($name);
		}
	}
	return;
}
target_locked('syncing');

# Two tables that two others have: while one is waited for, the other is not held.
{
	my ($first, $pid1) = blocker($target, 'LOCK TABLE app.item');
	my ($second, $pid2) = blocker($target, 'LOCK TABLE app.part');
	my $caller = start_psql($target, "SET rehome.lock_timeout = '60s'; $sql{verify}", name => 'caller');
	ok(waits_for($target, $pid1, q{a.application_name = 'caller'}), 'two tables locked at the target: one is waited for');
	$first->query('COMMIT');
	ok(waits_for($target, $pid2, q{a.application_name = 'caller'}), 'two tables locked at the target: then the other');
	is($second->query("LOCK TABLE app.item; SELECT 'locked'"), 'locked', 'two tables locked at the target: with the first not in hand');
	$second->query('COMMIT');
	$_->quit for $first, $second;
	my $result = finish_psql($caller);
	is($result->{sqlstate}, '00000', 'two tables locked at the target: it ends well') or diag($result->{stderr});
	unlike($result->{stderr}, qr/WARNING/, 'two tables locked at the target: without a warning');
}

# Cutover behind a writer.
{
	my ($session, $pid) = blocker($source, 'UPDATE app.item SET qty = qty WHERE id = 1');
	my ($sqlstate, $message, $detail, $hint, $seconds);
	my $wait = longest_wait($source, sub {
		my $began = time;
		($sqlstate, $message, $detail, $hint) = sqlstate_of($target, q{CALL rehome.cutover('m')});
		$seconds = time - $began;
	});
	is($sqlstate, 'RH004', 'cutover behind a writer: gives up') or diag("$message\n$detail");
	like($detail, qr/\bpid $pid\b/, 'cutover behind a writer: names its pid');
	like($message, qr/in @{[$retries + 1]} tries/, 'cutover behind a writer: says how often it tried');
	cmp_ok($seconds * 1000, '>=', $lock_timeout * ($retries + 1), 'cutover behind a writer: tried that often');
	cmp_ok($seconds, '<', ($retries + 1) * ($lock_timeout / 1000 + 1) + 5, 'cutover behind a writer: and no longer');
	cmp_ok($wait, '<', $lock_timeout + $slack, 'cutover behind a writer: no other waits longer than rehome.lock_timeout');
	$session->quit;
	is(takers(), 'source 00000 target 25006', 'cutover behind a writer: the source has authority');
	nothing_lost('cutover behind a writer');
}

# Cutover behind a transaction that somebody has prepared, and forgotten.
{
	$pair->sql_source(q{BEGIN; UPDATE app.item SET qty = qty WHERE id = 1; PREPARE TRANSACTION 'it''s forgotten'});
	my ($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m')});
	is($sqlstate, 'RH004', 'cutover behind a prepared transaction: gives up');
	like($detail, qr/^prepared transaction 'it''s forgotten' \(\w+\) holds RowExclusiveLock on app\.item, in a transaction for 00:00:/m, 'cutover behind a prepared transaction: names it');
	$pair->sql_source(q{ROLLBACK PREPARED 'it''s forgotten'});
}

# What that cutover had prepared at the target does nothing, until one that
# succeeds finds it there.
my $prepared = q{SELECT string_agg(format('%s %s', tgrelid::regclass, tgenabled), ', ' ORDER BY tgrelid::regclass::text COLLATE "C")
	FROM pg_trigger WHERE tgname = 'rehome_capture'};
my $logs = q{SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_class WHERE relnamespace = 'rehome_change'::regnamespace AND relname LIKE 'change\_%' AND relkind = 'r'};
my $logged = q{SELECT coalesce(sum((xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', oid::regclass), true, true, '')))[1]::text::bigint), -1)
	FROM pg_class WHERE relnamespace = 'rehome_change'::regnamespace AND relname LIKE 'change\_%' AND relkind = 'r'};
my $prepared_logs = $pair->sql_target($logs);
like($pair->sql_target($prepared), qr/^app\.count D, app\.item D, app\.part D/, 'a cutover that failed: capture is there, switched off');
$pair->sql_source('UPDATE app.item SET qty = qty + 1 WHERE id = 2');
$pair->sql_target(q{CALL rehome.sync('m')});
is($pair->sql_target($logged), 0, 'a cutover that failed: nothing is captured at the target');

# A maintenance lock at the source: writers do not mind it, nor our wait for it.
{
	my ($session, $pid) = blocker($source, 'LOCK TABLE app.item IN SHARE UPDATE EXCLUSIVE MODE');
	my $call;
	my $wait = longest_wait($source, sub {
		$call = start_psql($target, q{CALL rehome.cutover('m')});
		wait_until($source, "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name LIKE 'pg_rehome cutover%' AND $pid = ANY (pg_blocking_pids(a.pid)))")
		  or diag('cutover does not wait for the maintenance');
		# long enough for a queue behind it to be seen
		wait_until($source, "SELECT clock_timestamp() > query_start + '1.5 s' FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome cutover%'");
	});
	cmp_ok($wait, '<', $lock_timeout + $slack, 'maintenance at the source: no writer queues behind the wait for it');
	ok(psql_running($call), 'maintenance at the source: cutover waits');
	$session->query_safe('COMMIT');
	$session->quit;
	is(finish_psql($call)->{sqlstate}, '00000', 'maintenance at the source: and succeeds when it has ended');
	is(takers(), 'source 25006 target 00000', 'maintenance at the source: the target has authority');
	nothing_lost('maintenance at the source');
}

# The same at the target, which is what is read now, by the worker as well.
target_locked('cut over');

# Rollback behind a writer at the target.
{
	my ($session, $pid) = blocker($target, 'UPDATE app.item SET qty = qty WHERE id = 1');
	my ($sqlstate, $message, $detail, $hint, $seconds);
	my $wait = longest_wait($target, sub {
		my $began = time;
		($sqlstate, $message, $detail, $hint) = sqlstate_of($target, q{CALL rehome.rollback('m')});
		$seconds = time - $began;
	});
	is($sqlstate, 'RH004', 'rollback behind a writer: gives up') or diag("$message\n$detail");
	like($detail, qr/\bpid $pid\b/, 'rollback behind a writer: names its pid');
	cmp_ok($seconds, '<', ($retries + 1) * ($lock_timeout / 1000 + 1) + 5, 'rollback behind a writer: soon');
	cmp_ok($wait, '<', $lock_timeout + $slack, 'rollback behind a writer: no other waits longer than rehome.lock_timeout');
	$session->quit;
	is(takers(), 'source 25006 target 00000', 'rollback behind a writer: the target has authority');
	nothing_lost('rollback behind a writer');
}

# Rollback behind a prepared transaction.
{
	$pair->sql_target(q{BEGIN; UPDATE app.item SET qty = qty WHERE id = 1; PREPARE TRANSACTION 'forgotten'});
	my ($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.rollback('m')});
	is($sqlstate, 'RH004', 'rollback behind a prepared transaction: gives up');
	like($detail, qr/^prepared transaction 'forgotten' \(\w+\) holds RowExclusiveLock on app\.item, in a transaction for 00:00:/m, 'rollback behind a prepared transaction: names it');
	$pair->sql_target(q{ROLLBACK PREPARED 'forgotten'});
}

# Rollback, behind which others queue while it waits for the rest of its locks.
{
	my ($session) = blocker($target, 'UPDATE app.part SET qty = qty WHERE id = 60');
	my $roller = start_psql($target, q{SET rehome.lock_timeout = '60s'; CALL rehome.rollback('m')}, name => 'roller');
	my $waits = q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '%s' AND wait_event_type = 'Lock')};
	ok(wait_until($target, sprintf $waits, 'roller'), 'a queue behind rollback: it waits for a writer');
	my $ddl = start_psql($target, q{ALTER TABLE app.item ADD COLUMN queued int}, name => 'queued');
	ok(wait_until($target, sprintf $waits, 'queued'), 'a queue behind rollback: DDL waits for a table that it has');
	$session->query_safe('COMMIT');
	$session->quit;
	my $result = finish_psql($roller);
	is($result->{sqlstate}, '00000', 'a queue behind rollback: it is done') or diag($result->{stderr});
	is(finish_psql($ddl)->{sqlstate}, '00000', 'a queue behind rollback: and then the DDL');
	ok($pair->wait_for_state('m', 'syncing'), 'a queue behind rollback: rolled back');
	$pair->sql_target(q{ALTER TABLE app.item DROP COLUMN queued; CALL rehome.cutover('m')});
	nothing_lost('a queue behind rollback');
}

# A maintenance lock at the target.
{
	my ($session, $pid) = blocker($target, 'LOCK TABLE app.item IN SHARE UPDATE EXCLUSIVE MODE');
	my $call;
	my $wait = longest_wait($target, sub {
		$call = start_psql($target, q{CALL rehome.rollback('m')}, name => 'roller');
		wait_until($target, "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name = 'roller' AND $pid = ANY (pg_blocking_pids(a.pid)))")
		  or diag('rollback does not wait for the maintenance');
		wait_until($target, "SELECT clock_timestamp() > query_start + '1.5 s' FROM pg_stat_activity WHERE application_name = 'roller'");
	});
	cmp_ok($wait, '<', $lock_timeout + $slack, 'maintenance at the target: no writer queues behind the wait for it');
	ok(psql_running($call), 'maintenance at the target: rollback waits');
	$session->query_safe('COMMIT');
	$session->quit;
	is(finish_psql($call)->{sqlstate}, '00000', 'maintenance at the target: and succeeds when it has ended');
	ok($pair->wait_for_state('m', 'syncing'), 'maintenance at the target: rolled back');
	is(takers(), 'source 00000 target 25006', 'maintenance at the target: the source has authority');
	nothing_lost('maintenance at the target');
}

# An index build at the target is found before writers at the source have waited;
# the call waits for the worker, which may have met it first.
{
	my ($session, $pid) = blocker($target, 'LOCK TABLE app.item IN SHARE MODE');
	my ($sqlstate, $message, $detail);
	my $wait = longest_wait($source, sub {
		($sqlstate, $message, $detail) = sqlstate_of($target, q{SET rehome.lock_retries = 0; SET rehome.lock_timeout = '20s'; SET statement_timeout = '90s'; CALL rehome.cutover('m')});
	});
	is($sqlstate, 'RH004', 'index build at the target: cutover gives up') or diag("$message\n$detail");
	like($detail, qr/\bpid $pid\b/, 'index build at the target: and names its pid');
	cmp_ok($wait, '<', $slack, 'index build at the target: no writer at the source waits');
	$session->quit;
	nothing_lost('index build at the target');
}

# A freeze that lasts too long.
{
	my $lock = hold_lock($target, debug_lock());
	my $call = start_psql($target, q{CALL rehome.cutover('m')}, debug_point => 'frozen:wait', options => '-c rehome.freeze_timeout=500');
	ok(wait_for_lock_waiter($target, debug_lock()), 'freeze_timeout: cutover is frozen');
	my $began = time;
	is((sqlstate_of($source, "SET lock_timeout = '10s'; $write"))[0], '00000', 'freeze_timeout: a writer at the source goes on, although cutover hangs');
	cmp_ok(time - $began, '<', 3, 'freeze_timeout: soon');
	$lock->quit;
	my $result = finish_psql($call);
	is($result->{sqlstate}, 'RH005', 'freeze_timeout: cutover says why it was aborted') or diag($result->{stderr});
	is(authority(), 'source source', 'freeze_timeout: the source has authority');
	is(takers(), 'source 00000 target 25006', 'freeze_timeout: writers go on as if nothing had been');
	nothing_lost('freeze_timeout');
}

# Cutover and back, in a transaction that does not commit, while writers run.
my $traces = q{SELECT md5(string_agg(pg_get_triggerdef(t.oid) || t.tgenabled::text || pg_get_functiondef(t.tgfoid), ',' ORDER BY t.tgname, t.tgrelid)) FROM pg_trigger t WHERE t.tgname LIKE 'rehome%'};
sub traces { return join ' ', $pair->sql_source($traces), $pair->sql_target($traces), authority() }
{
	my $before = traces();
	my $wait = longest_wait($source, sub {
		for (1 .. 5)
		{
			my $result = finish_psql(start_psql($target, q{
				SET rehome.lock_retries = 50;
				BEGIN;
				CALL rehome.cutover('m');
				SELECT 'cut over: ' || state FROM rehome.status;
				ROLLBACK;
				SELECT 'after: ' || state FROM rehome.status;
			}));
			like($result->{stdout}, qr/cut over: cut_over\nafter: syncing/, 'BEGIN, cutover, ROLLBACK: undone') or diag($result->{stderr});
		}
	});
	cmp_ok($wait, '<', 5000, 'BEGIN, cutover, ROLLBACK: writers only waited');
	is(traces(), $before, 'BEGIN, cutover, ROLLBACK: both sides are as they were');
	is(takers(), 'source 00000 target 25006', 'BEGIN, cutover, ROLLBACK: the source has authority');
	nothing_lost('BEGIN, cutover, ROLLBACK');
}
{
	my $before = traces();
	my $session = $target->background_psql('postgres');
	$session->query_safe(q{SET client_min_messages = warning});
	$session->query_safe(q{BEGIN; SAVEPOINT s; CALL rehome.cutover('m'); ROLLBACK TO s});
	is((sqlstate_of($source, "SET lock_timeout = '2s'; $write"))[0], '00000', 'SAVEPOINT, cutover, ROLLBACK TO: the source is let go at once');
	$session->query_safe('COMMIT');
	is(traces(), $before, 'SAVEPOINT, cutover, ROLLBACK TO, COMMIT: both sides are as they were');
	is(takers(), 'source 00000 target 25006', 'SAVEPOINT, cutover, ROLLBACK TO, COMMIT: the source has authority');

	$session->query_safe(q{BEGIN; SAVEPOINT s; CALL rehome.cutover('m'); RELEASE s; SAVEPOINT t; ROLLBACK TO t; COMMIT});
	is(authority(), 'target target', 'SAVEPOINT, cutover, RELEASE, COMMIT: cut over');
	is(takers(), 'source 25006 target 00000', 'SAVEPOINT, cutover, RELEASE, COMMIT: the target has authority');

	$before = traces();
	$session->query_safe(q{BEGIN; SAVEPOINT s; CALL rehome.rollback('m'); ROLLBACK TO s; COMMIT});
	is(traces(), $before, 'SAVEPOINT, rollback, ROLLBACK TO, COMMIT: both sides are as they were');
	is(takers(), 'source 25006 target 00000', 'SAVEPOINT, rollback, ROLLBACK TO, COMMIT: the target has authority');
	$session->query_safe(q{BEGIN; CALL rehome.rollback('m'); ROLLBACK});
	is(traces(), $before, 'BEGIN, rollback, ROLLBACK: both sides are as they were');
	$session->quit;
	nothing_lost('savepoints');
}

# Rollback that is frozen too long.
{
	my $lock = hold_lock($target, debug_lock());
	my $call = start_psql($target, q{CALL rehome.rollback('m')}, name => 'roller', debug_point => 'frozen:wait', options => '-c rehome.freeze_timeout=300');
	ok(wait_for_lock_waiter($target, debug_lock()), 'freeze_timeout: rollback is frozen');
	wait_until($target, q{SELECT clock_timestamp() > query_start + '1 s' FROM pg_stat_activity WHERE application_name = 'roller'});
	$lock->quit;
	my $result = finish_psql($call);
	is($result->{sqlstate}, 'RH005', 'freeze_timeout: rollback is aborted') or diag($result->{stderr});
	is(authority(), 'target target', 'freeze_timeout: the target has authority');
	is(takers(), 'source 25006 target 00000', 'freeze_timeout: writers at the target go on');
	$pair->sql_target(q{CALL rehome.rollback('m')});
	ok($pair->wait_for_state('m', 'syncing'), 'rolled back');
}

# One whose source does not answer any more.
{
	$pair->sql_target(q{CALL rehome.cutover('m')});
	my $lock = hold_lock($target, debug_lock());
	my $call = start_psql($target, q{CALL rehome.rollback('m')}, debug_point => 'frozen:wait', options => '-c rehome.freeze_timeout=2s');
	ok(wait_for_lock_waiter($target, debug_lock()), 'a source that is silent: rollback is frozen');
	my $pid = $pair->sql_source(q{SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome rollback%'});
	kill 'STOP', $pid;
	$lock->quit;
	is(finish_psql($call)->{sqlstate}, 'RH005', 'a source that is silent: rollback gives up, although nothing comes');
	is((sqlstate_of($target, "SET lock_timeout = '2s'; $write"))[0], '00000', 'a source that is silent: writers at the target go on');
	kill 'CONT', $pid;
	ok(wait_until($source, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"), 'a source that is silent: its session ends when it can');
	is(authority(), 'target target', 'a source that is silent: the target has authority');
	$pair->sql_target(q{CALL rehome.rollback('m')});
	ok($pair->wait_for_state('m', 'syncing'), 'a source that is silent: rolled back when it answers');
}

# What fails on the way, and may, does not take the limit of a freeze back.
{
	my $aside = q{CREATE SCHEMA aside; CREATE TABLE aside.t (id int PRIMARY KEY)};
	$pair->sql_source($aside);
	$pair->sql_target($aside . q{; SELECT rehome.create_migration('n', 'src', 'a test of locks'); SELECT rehome.add_schema('n', 'aside', 'aside')});
	$pair->sql_target(q{CALL rehome.copy('n')});
	my $lock = $source->background_psql('postgres');
	$lock->query_safe('BEGIN; LOCK TABLE aside.t');
	my $call = start_psql($target, q{
		BEGIN;
		CALL rehome.cutover('m');
		DO $$BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END$$;
		SELECT * FROM rehome.verify('n');
		COMMIT}, options => '-c rehome.freeze_timeout=1s -c rehome.lock_timeout=30s');
	is(finish_psql($call)->{sqlstate}, 'RH005', 'an error that was caught: the freeze still ends in time');
	$lock->query_safe('ROLLBACK');
	$lock->quit;
	$pair->sql_target(q{CALL rehome.cancel('n')});
	$pair->sql_target(q{SELECT rehome.drop_migration('n')});
	is(authority(), 'source source', 'an error that was caught: the source has authority');
}

for my $call (qw(cutover rollback))
{
	is((sqlstate_of($target, "BEGIN; CALL rehome.$call('m'); PREPARE TRANSACTION 'p'"))[0], '0A000', "PREPARE TRANSACTION after $call is refused");
	is($pair->sql_target('SELECT count(*) FROM pg_prepared_xacts'), 0, "PREPARE TRANSACTION after $call: there is none");
	is(authority(), $call eq 'cutover' ? 'source source' : 'target target', "PREPARE TRANSACTION after $call: authority has not moved");
	$pair->sql_target(q{CALL rehome.cutover('m')});
}
$pair->sql_target(q{CALL rehome.rollback('m')});
ok($pair->wait_for_state('m', 'syncing'), 'rolled back again');

# Two calls at once: one switches, the other has nothing left to do.
for my $call (qw(cutover rollback))
{
	my $done = $call eq 'cutover' ? 'cut over' : 'rolled back';
	my $events = "SELECT count(*) FROM rehome.event WHERE kind = '$call'";
	my $before = $pair->sql_target($events);
	my $lock = hold_lock($target, debug_lock());
	my $first = start_psql($target, "CALL rehome.$call('m')", debug_point => ($call eq 'cutover' ? 'batch-applied' : 'reverse-applied') . ':wait');
	ok(wait_for_lock_waiter($target, debug_lock()), "$call twice: the first one drains");
	my $second = start_psql($target, "CALL rehome.$call('m')", name => 'second', options => '-c rehome.lock_timeout=60s');
	ok(wait_until($target, q{SELECT count(*) = 1 FROM pg_stat_activity a JOIN pg_locks l USING (pid)
		WHERE a.application_name = 'second' AND NOT l.granted AND l.locktype = 'advisory'}), "$call twice: the second one waits for it");
	$lock->quit;
	my @results = map { finish_psql($_) } $first, $second;
	is($_->{sqlstate}, '00000', "$call twice: no error") or diag($_->{stderr}) for @results;
	is(scalar(grep { $_->{stderr} =~ /is $done already/ } @results), 1, "$call twice: one says that it is done already");
	is($pair->sql_target($events) - $before, 1, "$call twice: authority has moved once");
	is($pair->sql_target($logs), $prepared_logs, "$call twice: with the change tables that a cutover that failed had made");
	ok($pair->wait_for_state('m', $call eq 'cutover' ? 'cut_over' : 'syncing'), "$call twice: it is done");
	my $third = finish_psql(start_psql($target, "CALL rehome.$call('m')"));
	is($third->{sqlstate}, '00000', "$call once more: no error");
	like($third->{stderr}, qr/is $done already/, "$call once more: it is done already");
	is($target->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'second'}), 0, "$call twice: the sessions have ended");
}
nothing_lost('two calls at once');

# Sessions that know the old state: a snapshot from before, a cached plan, a
# trigger function called before, a statement that waits for the lock.
sub old_sessions
{
	my ($node) = @_;
	my %session;
	for my $name ('snapshot', 'snapshot and rows', 'prepared statement')
	{
		$session{$name} = $node->background_psql('postgres', on_error_stop => 0);
		$session{$name}->query_safe('\set VERBOSITY verbose');
	}
	$session{snapshot}->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	$session{'snapshot and rows'}->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT sum(qty) FROM app.item; SELECT sum(qty) FROM app.part');
	$session{'prepared statement'}->query_safe("PREPARE w AS $write; EXECUTE w; EXECUTE w; PREPARE p AS UPDATE app.part_1 SET qty = qty + 1 WHERE id = 1; EXECUTE p");
	return \%session;
}

sub refused
{
	my ($session, $what, $sql) = @_;
	$session->query_safe('SAVEPOINT s') if $what =~ /snapshot/;
	$session->query($sql);
	like($session->{stderr}, qr/ERROR:  25006:/, "$what: refused: $sql");
	$session->{stderr} = '';
	$session->query_safe('ROLLBACK TO s') if $what =~ /snapshot/;
	return;
}

sub switch_with_old_sessions
{
	my ($call, $node) = @_;
	my $session = old_sessions($node);

	# one that waits in the freeze
	my $lock = hold_lock($target, debug_lock());
	my $switch = start_psql($target, "CALL rehome.$call('m')", debug_point => 'frozen:wait');
	wait_for_lock_waiter($target, debug_lock());
	my @queued = map { start_psql($node, $_, name => 'queued') } $write, 'INSERT INTO app.part VALUES (999, 1)', 'DELETE FROM app.part_1';
	ok(wait_until($node, q{SELECT count(*) = 3 FROM pg_stat_activity WHERE application_name = 'queued' AND wait_event_type = 'Lock'}), "$call: writers wait");
	$lock->quit;
	is(finish_psql($switch)->{sqlstate}, '00000', "$call succeeds");
	is(finish_psql($_)->{sqlstate}, '25006', "$call: a writer that waited is refused") for @queued;
	ok($pair->wait_for_state('m', $call eq 'cutover' ? 'cut_over' : 'syncing'), "$call is done");

	for my $what ('snapshot', 'snapshot and rows')
	{
		refused($session->{$what}, "$call, an old $what", $_)
		  for $write, 'DELETE FROM app.item WHERE id = 2', 'INSERT INTO app.part VALUES (998, 1)', 'UPDATE app.part_2 SET qty = 0', 'TRUNCATE app.count';
	}
	refused($session->{'prepared statement'}, "$call, a prepared statement", $_) for 'EXECUTE w', 'EXECUTE p';
	$_->quit for values %$session;
	return;
}
switch_with_old_sessions('cutover', $source);
is(takers(), 'source 25006 target 00000', 'after the cutover the target takes writes');
nothing_lost('after the cutover');
switch_with_old_sessions('rollback', $target);
is(takers(), 'source 00000 target 25006', 'after the rollback the source takes writes');
nothing_lost('after the rollback');

# Taking capture and fence away: table by table, so that writers who use several
# tables, in any order, do not meet it in a deadlock, which lock_timeout would end
# again and again at their expense.
{
	my $from = -s $source->logfile;
	my $result;
	my $wait = longest_wait($source, sub { $result = finish_psql(start_psql($target, q{CALL rehome.cancel('m')})) }, clients => 8, sleep => 0);
	is($result->{sqlstate}, '00000', 'cancel under load succeeds') or diag($result->{stderr});
	cmp_ok($wait, '<', $lock_timeout + $slack, 'cancel under load: no writer waits longer than rehome.lock_timeout');
	unlike(PostgreSQL::Test::Utils::slurp_file($source->logfile, $from), qr/(?:lock timeout|deadlock detected)/, 'cancel under load: it gets its locks at the first try');
	is($pair->sql_source(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%'}), 0, 'cancel under load: no trigger is left');
}

# A foreign key of a target refers to a table that is written: adding it asks for
# a lock there as briefly as for any other.
{
	$pair->sql_source(q{
		CREATE SCHEMA fk;
		CREATE TABLE fk.child (id int PRIMARY KEY, parent int NOT NULL);
		INSERT INTO fk.child SELECT i, i FROM generate_series(1, 10) i;
	});
	$pair->sql_target(q{
		CREATE SCHEMA fk;
		CREATE TABLE fk.parent (id int PRIMARY KEY, qty int NOT NULL DEFAULT 0);
		INSERT INTO fk.parent SELECT i FROM generate_series(1, 10) i;
		CREATE TABLE fk.child (id int PRIMARY KEY, parent int NOT NULL REFERENCES fk.parent);
		SELECT rehome.create_migration('fk', 'src', 'a test of foreign keys');
	});
	$pair->import_foreign_schema('fk', 'fk_source', 'child');
	$pair->sql_target(q{SELECT rehome.add_table('fk', 'fk_source.child', 'fk.child')});
	my $keys = q{SELECT coalesce(string_agg(conname || ' ' || convalidated, ', '), 'none') FROM pg_constraint WHERE conrelid = 'fk.child'::regclass AND contype = 'f'};
	my $write = q{SET statement_timeout = '10s'; UPDATE fk.parent SET qty = qty + 1 WHERE id = 2};

	my $lock = hold_lock($target, debug_lock());
	my $copy = start_psql($target, q{CALL rehome.copy('fk')}, debug_point => 'chunk-loaded:wait', options => '-c rehome.copy_workers=0', name => 'copy');
	ok(wait_for_lock_waiter($target, debug_lock()), 'foreign key: the copy is under way');
	is($pair->sql_target($keys), 'none', 'foreign key: it is off');
	my $long = $target->background_psql('postgres');
	$long->query_safe('BEGIN; UPDATE fk.parent SET qty = 1 WHERE id = 1');
	$lock->quit;
	ok(wait_until($target, q{SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'copy' AND l.relation = 'fk.parent'::regclass AND NOT l.granted)}),
		'foreign key: it is to be put back');
	is((sqlstate_of($target, $write))[0], '00000', 'foreign key: others go on writing what it refers to');
	my $result = finish_psql($copy);
	is($result->{sqlstate}, 'RH004', 'foreign key: it is not waited for for ever');
	like($result->{stderr}, qr/RowExclusiveLock on fk\.parent/, 'foreign key: who is in the way is named');
	is($pair->sql_target($keys), 'none', 'foreign key: it is off still');
	$long->query_safe('COMMIT');
	$long->quit;

	# The copy is resumed: what is locked is let go before rows are looked at.
	$lock = hold_lock($target, debug_lock());
	$copy = start_psql($target, q{CALL rehome.copy('fk')}, debug_point => 'caught-up:wait');
	ok(wait_for_lock_waiter($target, debug_lock()), 'foreign key, resumed: a batch is applied');
	is($pair->sql_target($keys), 'none', 'foreign key, resumed: and committed');
	# another is in line for the lock, so that the copy stops again
	my $next = $target->background_psql('postgres', on_error_stop => 0);
	my $holder = $next->query_safe('SELECT pg_backend_pid()');
	$next->query_until(qr/asking/, sprintf("\\echo asking\nSELECT pg_advisory_lock(%d, %d);\n", debug_lock()));
	ok(wait_until($target, "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $holder AND locktype = 'advisory' AND NOT granted)"), 'foreign key, resumed: it is to stop again');
	$lock->quit;
	$lock = $next;
	ok(wait_until($target, "SELECT ($keys) = 'child_parent_fkey false'"), 'foreign key, resumed: it is there, and not valid yet');
	is((sqlstate_of($target, $write))[0], '00000', 'foreign key, resumed: what it refers to can be written');
	$lock->quit;
	is(finish_psql($copy)->{sqlstate}, '00000', 'foreign key, resumed: the copy ends');
	is($pair->sql_target($keys), 'child_parent_fkey true', 'foreign key, resumed: it is valid');
	same_content($pair, ['fk.child'], 'foreign key, resumed: the same content on both sides');

	# When the copy is given up, too.
	$pair->sql_target(q{CALL rehome.cancel('fk'); TRUNCATE fk.child; SELECT rehome.drop_migration('fk');
		SELECT rehome.create_migration('fk', 'src', 'a test of foreign keys'); SELECT rehome.add_table('fk', 'fk_source.child', 'fk.child')});
	is(finish_psql(start_psql($target, q{CALL rehome.copy('fk')}, debug_point => 'chunks-planned:exit'))->{sqlstate}, '57P01', 'foreign key, cancelled: the copy breaks off');
	$long = $target->background_psql('postgres');
	$long->query_safe('BEGIN; UPDATE fk.parent SET qty = 1 WHERE id = 1');
	$result = finish_psql(start_psql($target, q{CALL rehome.cancel('fk')}));
	is($result->{sqlstate}, '00000', 'foreign key, cancelled: it does not keep the copy from being given up');
	like($result->{stderr}, qr/WARNING: .*"child_parent_fkey" of "fk\.child" could not be rebuilt: could not lock/, 'foreign key, cancelled: with a warning');
	$long->query_safe('COMMIT');
	$long->quit;
	$pair->sql_target(q{CALL rehome.cancel('fk')});
	is($pair->sql_target($keys), 'child_parent_fkey true', 'foreign key, cancelled: another cancel puts it back');
}

done_testing();
