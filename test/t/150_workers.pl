# Background workers: who starts them, how they show, and how they go away.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use RehomeTest;
use Test::More;
use Time::HiRes qw(time);

my $pair = new_pair(
	role        => 1,
	target_conf => join("\n",
		'rehome.naptime = 50ms',
		'rehome.retry_max = 300ms',
		'rehome.launcher_naptime = 200ms',
		'rehome.chunk_size = 64kB',
		'max_worker_processes = 12'));
my ($source, $target) = ($pair->source, $pair->target);

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL, pad text);
	CREATE TABLE app.other (id int PRIMARY KEY, qty int NOT NULL);
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{
	INSERT INTO app.item SELECT i, 0, repeat('x', 100) FROM generate_series(1, 3000) i;
	INSERT INTO app.other SELECT i, 0 FROM generate_series(1, 100) i;
});
$pair->grant_source('app');
$pair->import_foreign_schema('app', 'app_source');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of workers');
	SELECT rehome.add_slice('m', 'second');
	SELECT rehome.add_table('m', 'app_source.item', 'app.item');
	SELECT rehome.add_table('m', 'app_source.other', 'app.other', slice => 'second');
});

my $workers = q{SELECT application_name || ' ' || datname FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync' ORDER BY 1};
my $workers_listed = q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync' AND datname IN ('listed', 'postgres')};
my $both = "pg_rehome sync m/main postgres\npg_rehome sync m/second postgres";

# What is written at the source arrives by itself.
my $sequel = 0;
sub arrives
{
	my ($name) = @_;
	$sequel++;
	$pair->sql_source("UPDATE app.item SET qty = $sequel WHERE id = 1; UPDATE app.other SET qty = $sequel WHERE id = 1");
	return ok(wait_until($target, "SELECT (SELECT qty FROM app.item WHERE id = 1) = $sequel AND (SELECT qty FROM app.other WHERE id = 1) = $sequel"),
		"$name: changes arrive");
}

sub worker { return $pair->sql_target(q{SELECT worker FROM rehome.status WHERE slice = 'main'}) }

# Not preloaded: rehome.start() starts them.
is($pair->sql_target('SHOW shared_preload_libraries'), '', 'the library is not preloaded');
is($pair->sql_target($workers), '', 'before the start no worker runs');
$pair->sql_target(q{CALL rehome.start('m')});
ok($pair->wait_for_state('m', 'syncing'), 'rehome.start() has its work done by workers');
is($pair->sql_target($workers), $both, 'each slice has one, visible by its name');
is($pair->sql_target(q{SELECT count(*) FROM rehome.status s JOIN pg_stat_activity a ON a.pid = s.worker AND a.application_name = 'pg_rehome sync m/' || s.slice}),
	2, 'rehome.status knows their pids');
ok(wait_until($source, q{SELECT string_agg(application_name, ',' ORDER BY application_name) = 'pg_rehome sync m/main,pg_rehome sync m/second' FROM pg_stat_activity WHERE usename = 'rehome_src'}),
	'the source sees them by their names');
arrives('running');
my $before = $pair->sql_target('SELECT array_agg(worker ORDER BY slice) FROM rehome.status');
$pair->sql_target(q{CALL rehome.start('m'); CALL rehome.recover('m')});
arrives('started again');
is($pair->sql_target($workers), $both, 'asking again starts no second one');
is($pair->sql_target('SELECT array_agg(worker ORDER BY slice) FROM rehome.status'), $before, 'and leaves those that run');

# A few rows at a time wait for each other, and both sides are left alone meanwhile; so after the cutover.
sub batches { return $pair->sql_target(q{SELECT batches FROM rehome.status WHERE slice = 'second'}) }
sub trickle
{
	my ($node, $name) = @_;
	my $writer = start_pgbench($node, q{UPDATE app.other SET qty = qty + 1 WHERE id = 2;} . "\n", clients => 1, rate => 100);
	ok(wait_until($node, q{SELECT qty >= 20 FROM app.other WHERE id = 2}), "$name: rows trickle in");
	my ($first, $began) = (batches(), time);
	ok(wait_until($node, q{SELECT qty >= 200 FROM app.other WHERE id = 2}), "$name: more of them");
	my $most = (time - $began) / 0.4 + 2;
	my $n = batches() - $first;
	cmp_ok($n, '>', 0, "$name: they are brought over");
	cmp_ok($n, '<', $most, "$name: in batches, between which the worker naps");
	stop_pgbench($writer);
	return;
}
$target->append_conf('postgresql.conf', 'rehome.naptime = 400ms');
$target->reload;
trickle($source, 'syncing');
$pair->sql_target(q{CALL rehome.cutover('m', 'second'); UPDATE app.other SET qty = 0 WHERE id = 2});
trickle($target, 'cut over');
$pair->sql_target(q{CALL rehome.rollback('m', 'second')});
same_content($pair, ['app.other'], 'and nothing is missed');
$target->append_conf('postgresql.conf', 'rehome.naptime = 50ms');
$target->reload;
arrives('after all that');

# Pause and resume.
$pair->sql_target(q{SELECT rehome.pause('m', 'main', 'a reason')});
ok(wait_until($target, q{SELECT worker IS NULL FROM rehome.status WHERE slice = 'main'}), 'pause: the worker ends');
is($pair->sql_target(q{SELECT paused || ' ' || reason FROM rehome.status WHERE slice = 'main'}), 'true a reason', 'pause: the status gives the reason');
is($pair->sql_target($workers), 'pg_rehome sync m/second postgres', 'pause: the other slice goes on');
is((sqlstate_of($target, q{CALL rehome.sync('m', 'main')}))[0], 'RH009', 'pause: sync is refused');
$pair->sql_target(q{SELECT rehome.resume('m')});
arrives('resume');
is($pair->sql_target($workers), $both, 'resume: the worker is back');

# Cancel and terminate: at once, whatever it waits for.
{
	my $pid = worker();
	$pair->sql_target("SELECT pg_cancel_backend($pid)");
	arrives('cancel');
	is(worker(), $pid, 'cancel: the worker goes on');
	$pair->sql_target(q{CALL rehome.recover('m')});
	ok(wait_until($target, q{SELECT bool_and(worker IS NOT NULL) FROM rehome.status}), 'cancel: there is one');
	$pid = worker();
	ok(wait_until($target, q{SELECT bool_and(error IS NULL) FROM rehome.status}), 'cancel: and has no error');

	is($pair->sql_target("SELECT pg_terminate_backend($pid, 2000)"), 't', 'terminate: the worker ends at once');
	is($pair->sql_target($workers), 'pg_rehome sync m/second postgres', 'terminate: and is not started again, without a launcher');
	ok(wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pg_rehome sync m/main'}), 'terminate: its session at the source ends');
	$pair->sql_target(q{CALL rehome.recover('m')});
	arrives('recover');
	is($pair->sql_target($workers), $both, 'recover starts it again');
}
# One that rests is in no transaction, whose abort would close its session at the source.
{
	my $pid = worker();
	for my $time (1 .. 3)
	{
		ok(wait_until($target, "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid"), "cancel at rest, $time: it rests");
		my $from = -s $target->logfile;
		$pair->sql_target("SELECT pg_cancel_backend($pid)");
		$target->wait_for_log(qr/canceling statement due to user request/, $from);
		arrives("cancel at rest, $time");
		ok(wait_until($target, q{SELECT bool_and(error IS NULL) FROM rehome.status}), "cancel at rest, $time: it has no error any more");
	}
	is(worker(), $pid, 'cancel at rest: the worker goes on');
	ok(wait_until($source, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pg_rehome sync m/main'}, 10),
		'cancel at rest: and has one session at the source');
}
for my $hangs ('its session', 'the whole server')
{
	my $pid = worker();
	ok(wait_until($source, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pg_rehome sync m/main'}), 'the worker has a session at the source');
	my @stopped = $pair->sql_source(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_rehome sync m/main'});
	push @stopped, $source->{_pid} if $hangs eq 'the whole server';
	kill 'STOP', @stopped;
	ok(wait_until($target, "SELECT staleness > '2 s' FROM rehome.status WHERE slice = 'main'"), "source hangs, $hangs: the worker waits for it");
	my $began = time;
	my $call = start_psql($target, "SELECT pg_terminate_backend($pid, 10000)");
	# should it hang: not for ever
	my $gone = wait_until($target, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", 10);
	kill 'CONT', @stopped;
	ok($gone, "source hangs, $hangs: the worker can be terminated");
	finish_psql($call);
	$pair->sql_target(q{CALL rehome.recover('m')});
	arrives("source hangs, $hangs, then goes on");
}

# A source that is lost and comes back.
{
	my $errors = q{SELECT count(*) FROM rehome.event WHERE kind = 'error'};
	my $events = $pair->sql_target($errors);
	$source->stop('fast');
	ok(wait_until($target, q{SELECT bool_and(error IS NOT NULL AND error_since IS NOT NULL) FROM rehome.status}), 'lost source: the status shows an error, and since when');
	my $since = $pair->sql_target(q{SELECT error_since FROM rehome.status WHERE slice = 'main'});
	ok(wait_until($target, q{SELECT bool_and(error LIKE 'could not connect to server "src"%') FROM rehome.status}), 'lost source: it names the server');
	# some more tries
	my $from = -s $target->logfile;
	$target->wait_for_log(qr/could not connect(?s:.*)could not connect(?s:.*)could not connect(?s:.*)could not connect/, $from);
	is($pair->sql_target(q{SELECT error_since FROM rehome.status WHERE slice = 'main'}), $since, 'lost source: since when stays');
	cmp_ok($pair->sql_target($errors) - $events, '<=', 6, 'lost source: the log of events is not flooded');
	is($pair->sql_target($workers), $both, 'lost source: the workers stay');
	ok($pair->sql_target(q{SELECT bool_and(staleness > '0') FROM rehome.status}), 'lost source: staleness is measured');
	$source->start;
	arrives('source back');
	ok(wait_until($target, q{SELECT bool_and(error IS NULL AND error_since IS NULL) FROM rehome.status}), 'source back: the error is over');
}

# A password that is not good any more.
{
	$pair->sql_source(q{ALTER ROLE rehome_src PASSWORD 'another'});
	$pair->sql_source(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rehome_src'});
	ok(wait_until($target, q{SELECT bool_and(error LIKE '%password authentication failed%') FROM rehome.status}), 'bad password: the status shows it');
	$pair->sql_target(q{ALTER USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (SET password 'another')});
	arrives('bad password put right');
	unlike($pair->sql_target(q{SELECT string_agg(message || coalesce(detail::text, ''), ' ') FROM rehome.event}), qr/another/, 'no password is in the log of events');
}

# Who is in the way is told; what he runs only to whoever asks, and not put on
# record.
{
	$pair->sql_target(q{LOAD 'pg_rehome'; ALTER SYSTEM SET rehome.lock_timeout = '100ms'; ALTER SYSTEM SET rehome.lock_retries = 0});
	$target->reload;
	my $session = $target->background_psql('postgres');
	$session->query_safe(q{BEGIN; LOCK TABLE app.item IN SHARE MODE});
	$session->query_safe(q{SELECT 'a quiet word'});
	$pair->sql_source('UPDATE app.item SET qty = qty + 1 WHERE id = 2');
	ok(wait_until($target, q{SELECT error LIKE '%holds ShareLock on app.item%' FROM rehome.status WHERE slice = 'main'}), 'in the way: the status says who');
	is($pair->sql_target(q{SELECT count(*) FROM rehome.event WHERE message LIKE '%quiet word%'}), 0, 'in the way: what he runs is not in the log of events');
	is($pair->sql_target(q{SELECT count(*) FROM rehome.status WHERE error LIKE '%quiet word%' OR error LIKE '%running%'}), 0, 'in the way: nor in the status');
	$pair->sql_target(q{CALL rehome.sync('m', 'second')});
	$pair->sql_target(q{SELECT rehome.pause('m', 'main')});
	ok(wait_until($target, q{SELECT worker IS NULL FROM rehome.status WHERE slice = 'main'}), 'in the way: paused');
	$pair->sql_target(q{UPDATE rehome.slice SET paused = false WHERE name = 'main'});
	my ($sqlstate, undef, $detail) = sqlstate_of($target, q{CALL rehome.sync('m', 'main')});
	is($sqlstate, 'RH004', 'in the way: a call waits as long');
	like($detail, qr/holds ShareLock on app\.item.*\n  running: .*quiet word/, 'in the way: it is told what he runs');
	$session->query_safe('ROLLBACK');
	$session->quit;
	$pair->sql_target(q{ALTER SYSTEM RESET rehome.lock_timeout; ALTER SYSTEM RESET rehome.lock_retries});
	$target->reload;
	$pair->sql_target(q{SELECT rehome.resume('m')});
	arrives('nobody in the way');
}

# A server of another name is an error like any other, once it is connected to.
{
	$pair->sql_target('ALTER SERVER src RENAME TO elsewhere');
	$pair->sql_source(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome sync%'});
	ok(wait_until($target, q{SELECT bool_and(error LIKE 'server "src" does not exist%') FROM rehome.status}), 'a server renamed: the status shows it');
	$pair->sql_target('ALTER SERVER elsewhere RENAME TO src');
	arrives('a server renamed and named back');
}

# What the database sets for its sessions does not hold for workers.
{
	my %setting = (default_transaction_read_only => 'on', default_transaction_isolation => "'repeatable read'", lock_timeout => "'1ms'");
	$pair->sql_target(join ';', map { "ALTER DATABASE postgres SET $_ = $setting{$_}" } sort keys %setting);
	my $pid = $pair->sql_target(q{SELECT worker FROM rehome.status WHERE slice = 'main'});
	$pair->sql_target(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync'});
	$pair->sql_target(q{SET default_transaction_read_only = off; SELECT rehome.resume('m')}) if $pair->sql_target('SHOW shared_preload_libraries') eq '';
	ok(wait_until($target, "SELECT worker <> $pid FROM rehome.status WHERE slice = 'main'"), 'settings of the database: there are new workers');
	arrives('settings of the database');
	$pair->sql_target(join ';', 'SET default_transaction_read_only = off', map { "ALTER DATABASE postgres RESET $_" } sort keys %setting);
}

# A verification that is cancelled leaves nothing open at the source.
{
	my $sessions = q{SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome verify%'};
	for my $what ('cancelled', 'terminated', 'timed out')
	{
		my $lock = $source->background_psql('postgres');
		$lock->query_safe('BEGIN; LOCK TABLE app.item IN ACCESS EXCLUSIVE MODE');
		my $verify = start_psql($target, ($what eq 'timed out' ? q{SET statement_timeout = '5s'; } : '') . q{SELECT * FROM rehome.verify('m', 'main')}, name => 'verifier');
		ok(wait_until($source, "SELECT ($sessions AND wait_event_type = 'Lock') = 1"), "verify $what: it waits at the source");
		my $pid = $pair->sql_target(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'verifier'});
		$pair->sql_target("SELECT pg_cancel_backend($pid)")    if $what eq 'cancelled';
		$pair->sql_target("SELECT pg_terminate_backend($pid)") if $what eq 'terminated';
		like(finish_psql($verify)->{sqlstate}, $what eq 'terminated' ? qr/57P01|08006/ : qr/57014/, "verify $what: ends at once");
		ok(wait_until($source, "SELECT ($sessions) = 0"), "verify $what: no session of it is left at the source, though the lock is still held");
		$lock->quit;
	}
	ok(wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'rehome_src' AND state LIKE 'idle in transaction%' AND xact_start < clock_timestamp() - interval '2 s'}),
		'no transaction stays open at the source');
	is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('m')}), 't', 'a verification that is left alone succeeds');
}

# The session of a copy takes its workers with it.
$pair->sql_target(q{CALL rehome.cancel('m'); TRUNCATE app.item, app.other});
ok(wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync')}), 'cancel ends the workers');
my $copy_workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_rehome copy'};
sub define
{
	my ($name, $database) = @_;
	$target->safe_psql($database // 'postgres', qq{
		SELECT rehome.create_migration('$name', 'src', 'a test of workers');
		SELECT rehome.add_table('$name', 'app_source.item', 'app.item');
	});
	return;
}
{
	define('n');
	$pair->sql_target(q{LOAD 'pg_rehome'; ALTER SYSTEM SET rehome.debug_point = 'chunk-loaded:wait'});
	$target->reload;
	my $lock = hold_lock($target, debug_lock());
	my $copy = start_psql($target, q{CALL rehome.copy('n')}, name => 'copier');
	ok(wait_until($target, "SELECT ($copy_workers) = 2"), 'a copy has its workers');
	is($pair->sql_target(q{SELECT string_agg(DISTINCT application_name, ',') FROM pg_stat_activity WHERE backend_type = 'pg_rehome copy'}), 'pg_rehome copy n/main', 'visible by their name');
	wait_for_lock_waiter($target, debug_lock());
	is($pair->sql_target(q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'copier'}), 't', 'its session is terminated');
	finish_psql($copy);
	$pair->sql_target(q{LOAD 'pg_rehome'; ALTER SYSTEM RESET rehome.debug_point});
	$target->reload;
	$lock->quit;
	ok(wait_until($target, "SELECT ($copy_workers) = 0", 10), 'and its workers end');
	my ($all, $done) = split / /, $pair->sql_target(q{SELECT count(*) || ' ' || count(done_at) FROM rehome.chunk c});
	# a source before 14 is read table by table, and both may be under way
	cmp_ok($done, '<', $all, 'before the copy is done') if $pair->source_version >= 140000;
	is($pair->sql_target(q{SELECT state FROM rehome.status WHERE migration = 'n'}), 'copying', 'the slice is copying still');
	ok(wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome copy%'}), 'nothing of it is left at the source');
	$pair->sql_target(q{CALL rehome.copy('n')});
	same_content($pair, ['app.item'], 'calling again ends the copy');
	$pair->sql_target(q{CALL rehome.cancel('n'); TRUNCATE app.item});
}

# Workers are in nobody's way who drops their database.
my ($mapping) = $pair->sql_target(q{SELECT umoptions[2] FROM pg_user_mappings WHERE srvname = 'src'});
sub make_database
{
	my ($name) = @_;
	$pair->sql_target("CREATE DATABASE $name");
	my $host = $source->host;
	my $port = $source->port;
	$target->safe_psql($name, qq{
		CREATE EXTENSION pg_rehome CASCADE;
		CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (user 'rehome_src', password 'another');
		$tables
		CREATE SCHEMA app_source;
		IMPORT FOREIGN SCHEMA app FROM SERVER src INTO app_source;
	});
	return;
}
make_database('short_lived');
define('d', 'short_lived');
$target->safe_psql('short_lived', q{CALL rehome.start('d')});
ok(wait_until($target, q{SELECT state = 'syncing' AND worker IS NOT NULL FROM rehome.status}, undef, 'short_lived'), 'a worker runs in a database');
is((sqlstate_of($target, 'DROP DATABASE short_lived'))[0], '00000', 'DROP DATABASE succeeds while it runs');
is($pair->sql_target(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_rehome%'}), 0, 'and it is gone');
$pair->sql_source(q{DROP SCHEMA rehome_source CASCADE});

make_database('short_lived');
define('d', 'short_lived');
{
	$pair->sql_source(q{INSERT INTO app.item SELECT i, 0, repeat('x', 100) FROM generate_series(10000, 600000) i});
	my $copy = start_psql($target, q{CALL rehome.start('d')}, dbname => 'short_lived');
	ok(wait_until($target, "SELECT ($copy_workers) > 0"), 'copy workers run in a database');
	finish_psql($copy);
	# two of them hang at the source
	my @stopped = split /\n/, $pair->sql_source(q{SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome copy%'});
	kill 'STOP', @stopped;
	is((sqlstate_of($target, 'DROP DATABASE short_lived'))[0], '00000', 'DROP DATABASE succeeds while they wait for the source');
	kill 'CONT', @stopped;
	ok(wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'rehome_src'}), 'nothing of them is left at the source');
}
$pair->sql_source(q{DROP SCHEMA rehome_source CASCADE; DELETE FROM app.item WHERE id >= 10000});

make_database('short_lived');
# an index whose making takes for ever
$target->safe_psql('short_lived', q{
	CREATE FUNCTION app.slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(600); RETURN i; END$$;
	CREATE INDEX ON app.item (app.slow(id))});
define('d', 'short_lived');
$target->safe_psql('short_lived', q{CALL rehome.start('d')});
ok(wait_until($target, qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type = 'pg_rehome copy'}), 'a worker builds an index');
is((sqlstate_of($target, 'DROP DATABASE short_lived'))[0], '00000', 'DROP DATABASE succeeds while it does');
ok(wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'rehome_src'}), 'nothing of them is left at the source');
$pair->sql_source(q{DROP SCHEMA rehome_source CASCADE});

# However often a worker reads its maps anew, it keeps them once.
make_database('short_lived');
define('d', 'short_lived');
{
	my $long = 'x' x 100_000;
	$target->safe_psql('short_lived', qq{
		SELECT rehome.map_column('d', 'app.item', 'pad', \$\$coalesce(pad, '$long')\$\$);
		CALL rehome.start('d')});
	ok(wait_until($target, q{SELECT state = 'syncing' AND worker IS NOT NULL FROM rehome.status}, undef, 'short_lived'), 'maps: a worker runs');
	my $kept = sub {
		my $pid = $target->safe_psql('short_lived', 'SELECT worker FROM rehome.status');
		my $from = -s $target->logfile;
		$pair->sql_target("SELECT pg_log_backend_memory_contexts($pid)");
		$target->wait_for_log(qr/Grand total: \d+ bytes/, $from);
		my $sum = 0;
		$sum += $_ for substr(slurp_file($target->logfile), $from) =~ /pg_rehome [a-z]+: (\d+) total/g;
		return $sum;
	};
	my $reread = sub {
		$target->safe_psql('short_lived', 'UPDATE rehome.slice SET maps_version = maps_version + 1');
		$sequel++;
		$pair->sql_source("UPDATE app.item SET qty = $sequel WHERE id = 1");
		return wait_until($target, "SELECT qty = $sequel FROM app.item WHERE id = 1", undef, 'short_lived');
	};
	ok($reread->(), 'maps: changes arrive');
	my $first = $kept->();
	cmp_ok($first, '>', length $long, 'maps: what it keeps is known');
	ok($reread->(), 'maps: changes arrive, read anew') for 1 .. 10;
	cmp_ok($kept->(), '<', $first + 3 * length $long, 'maps: read ten times more, they are there once');
}

# Without the extension a worker has nothing to do.
{
	# it may meet the worker in a deadlock
	my $dropped;
	for (1 .. 5)
	{
		($dropped) = sqlstate_of($target, 'DROP EXTENSION pg_rehome CASCADE', 'short_lived');
		last if $dropped eq '00000';
	}
	is($dropped, '00000', 'DROP EXTENSION succeeds while a worker runs');
	ok(wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'pg_rehome%')}, 20), 'and the worker ends');
	ok(wait_until($source, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'rehome_src'}, 20), 'with its session at the source');
	is((sqlstate_of($target, 'DROP DATABASE short_lived'))[0], '00000', 'nothing of it is left');
}
$pair->sql_source(q{DROP SCHEMA rehome_source CASCADE});

# The launcher.
define('main');
$pair->sql_target(q{CALL rehome.start('main'); SELECT rehome.create_migration('planned', 'src', 'not started')});
ok($pair->wait_for_state('main', 'syncing'), 'a migration is under way');
make_database('listed');
make_database('unlisted');
for my $database ('listed', 'unlisted')
{
	define("in_$database", $database);
	$target->safe_psql($database, "CALL rehome.copy('in_$database')");
	$target->safe_psql($database, "CALL rehome.start('in_$database')");
}
$target->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_rehome'\nrehome.databases = 'postgres, listed, template0, \"no such\"'");
$target->restart;
ok(wait_until($target, q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync'}), 'after a restart workers are started');
is($pair->sql_target($workers), "pg_rehome sync in_listed/main listed\npg_rehome sync main/main postgres", 'by the launcher, in its databases');
is($pair->sql_target(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_rehome launcher'}), 1, 'it is visible by its name');
my $from = -s $target->logfile;
$pair->sql_source('UPDATE app.item SET qty = -7 WHERE id = 7');
ok(wait_until($target, 'SELECT qty = -7 FROM app.item WHERE id = 7'), 'changes arrive again');
# the launcher has looked round several times
my $now = $pair->sql_target('SELECT clock_timestamp()');
wait_until($target, "SELECT clock_timestamp() > '$now'::timestamptz + '1.5 s'");
is($pair->sql_target($workers), "pg_rehome sync in_listed/main listed\npg_rehome sync main/main postgres", 'there is one each, and none in other databases');
is((sqlstate_of($target, 'CREATE DATABASE from_template'))[0], '00000', 'no template is in use');
{
	my $pid = $pair->sql_target(q{SELECT worker FROM rehome.status WHERE migration = 'main'});
	$pair->sql_target("SELECT pg_terminate_backend($pid, 5000)");
	ok(wait_until($target, "SELECT worker <> $pid FROM rehome.status WHERE migration = 'main'"), 'a worker that was terminated is started again');
	# what one database is locked by is no matter of the others, be it what a starter
	# reads, or what everybody reads who connects
	for my $locked ('rehome.slice', 'pg_class')
	{
		my $session = $target->background_psql('listed');
		$session->query_safe("BEGIN; LOCK TABLE $locked IN ACCESS EXCLUSIVE MODE");
		ok(wait_until($target, q{SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = 'listed' AND NOT l.granted
				AND l.pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync'))}), "$locked is locked in one database: a starter waits");
		$pid = $pair->sql_target(q{SELECT worker FROM rehome.status WHERE migration = 'main'});
		$pair->sql_target("SELECT pg_terminate_backend($pid, 5000)");
		ok(wait_until($target, "SELECT worker <> $pid FROM rehome.status WHERE migration = 'main'", 30), "$locked is locked in one database: a worker of another is started all the same");
		$session->query_safe('ROLLBACK');
		$session->quit;
	}
	ok(wait_until($target, "SELECT ($workers_listed)"), 'nothing is locked: all have their workers');
	$pair->sql_target(q{SELECT rehome.pause('main')});
	ok(wait_until($target, q{SELECT worker IS NULL FROM rehome.status WHERE migration = 'main'}), 'a paused slice loses its worker');
	$now = $pair->sql_target('SELECT clock_timestamp()');
	wait_until($target, "SELECT clock_timestamp() > '$now'::timestamptz + '1 s'");
	is($pair->sql_target($workers), 'pg_rehome sync in_listed/main listed', 'and the launcher gives it none');
	$pair->sql_target(q{LOAD 'pg_rehome'; ALTER SYSTEM SET rehome.databases = 'unlisted'});
	$target->reload;
	ok(wait_until($target, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_rehome sync' AND datname = 'unlisted')}), 'rehome.databases can be changed by a reload');
	$pair->sql_target(q{SELECT rehome.resume('main')});
}
is((sqlstate_of($target, 'DROP DATABASE unlisted'))[0], '00000', 'DROP DATABASE succeeds although the launcher looks after it');

# Nobody is left to start.
$target->append_conf('postgresql.auto.conf', "rehome.databases = 'none'");
$target->append_conf('postgresql.conf', "shared_preload_libraries = ''\nmax_worker_processes = 1");
$target->restart;
ok(wait_until($target, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'logical replication launcher'}), 'the only slot is taken');
{
	my $result = finish_psql(start_psql($target, q{CALL rehome.recover('main')}));
	is($result->{sqlstate}, '00000', 'no slot: the call succeeds');
	like($result->{stderr}, qr/WARNING: .*out of background worker slots.*\n(?:DETAIL.*\n)?HINT: .*max_worker_processes/, 'no slot: with a warning and a hint');
	$pair->sql_target(q{CALL rehome.cancel('main'); TRUNCATE app.item});
	define('alone');
	$result = finish_psql(start_psql($target, q{CALL rehome.copy('alone')}));
	is($result->{sqlstate}, '00000', 'no slot: a copy is done by the session itself');
	like($result->{stderr}, qr/WARNING: .*out of background worker slots.*\n(?:DETAIL.*\n)?HINT: .*max_worker_processes/, 'no slot: with a warning and a hint there too');
	same_content($pair, ['app.item'], 'no slot: the same content on both sides');
}

done_testing();
