# Whatever dies during the initial copy, with writers at work that change keys
# too: it is resumed, copies no finished chunk again, and ends exact.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $rows = 6000;
my $pair = new_pair(
	fsync       => 1,
	preload     => 1,
	target_conf => join("\n",
		'restart_after_crash = on',
		'rehome.launcher_naptime = 200ms',
		'rehome.retry_max = 200ms',
		'rehome.naptime = 50ms',
		'rehome.chunk_size = 64kB'));
my ($source, $target) = ($pair->source, $pair->target);
my @content = qw(app.item app.line);

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL DEFAULT 0, code text UNIQUE, pad text);
	CREATE INDEX item_qty ON app.item (qty);
	CREATE TABLE app.line (item int, no int, note text, PRIMARY KEY (item, no));
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(qq{
	INSERT INTO app.item SELECT i, 0, 'code ' || i, repeat('x', 150) FROM generate_series(1, $rows) i;
	INSERT INTO app.line SELECT i, n, 'line' FROM generate_series(1, $rows / 3) i, generate_series(1, 3) n;
});
my $indexes = q{SELECT indexdef FROM pg_indexes WHERE schemaname = 'app' ORDER BY 1};
my $defined = $pair->sql_target($indexes);

# Updates that move rows between chunks, updates of keys, inserts and deletes.
my $load = qq{
\\set a random(1, $rows)
\\set b random(1, $rows)
\\set n random(1, 6)
BEGIN;
UPDATE app.item SET qty = qty + 1, pad = pad || 'y' WHERE id = :a;
UPDATE app.item SET id = -id WHERE abs(id) = :b;
INSERT INTO app.line VALUES (:a, :n, 'new') ON CONFLICT (item, no) DO UPDATE SET note = app.line.note || '.';
DELETE FROM app.line WHERE item = :b AND no = :n;
COMMIT;
};
my $writer = start_pgbench($source, $load, rate => 200);

my $migration = 0;

# A new migration of the same tables, into emptied targets.
sub define
{
	my $name = 'm' . ++$migration;
	$pair->sql_target(qq{
		SELECT rehome.create_migration('$name', 'src', 'a test of what dies when');
		SELECT rehome.add_schema('$name', 'app', 'app');
	});
	return $name;
}

sub chunks
{
	my ($name) = @_;
	return split / /, $pair->sql_target(qq{
		SELECT count(*) || ' ' || count(done_at) FROM rehome.chunk c JOIN rehome.table_map t ON t.id = c.table_map_id
		  JOIN rehome.slice s ON s.id = t.slice_id JOIN rehome.migration m ON m.id = s.migration_id WHERE m.name = '$name'});
}

# Is in sync, and equal at one snapshot while writers go on; then is taken away.
sub ends_well
{
	my ($name, $what) = @_;
	ok($pair->wait_for_state($name, 'syncing'), "$what: the copy ends");
	my ($all, $done) = chunks($name);
	# a source before 14 gets one a table
	cmp_ok($all, '>=', $pair->source_version >= 140000 ? 4 : 2, "$what: it had chunks");
	is($done, $all, "$what: every chunk is done");
	is($pair->sql_target(qq{SELECT bool_and(ok) FROM rehome.verify('$name', mode => 'rows')}), 't', "$what: both sides are equal at one snapshot");
	is($pair->sql_target($indexes), $defined, "$what: all indexes are there");
	$pair->sql_target(qq{CALL rehome.cancel('$name')});
	is($pair->sql_source(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%'}), 0, "$what: cancel leaves no trigger at the source");
	$pair->sql_target('TRUNCATE app.item, app.line');
	return;
}

# Starts a copy, as the worker's work or in the foreground, which stops at the
# point in whichever process gets there first; returns the lock that holds it,
# its pid, and the handle of the call in the foreground.
sub stop_copy
{
	my ($name, $point, $foreground) = @_;
	my $lock = hold_lock($target, debug_lock());
	$pair->sql_target("ALTER SYSTEM SET rehome.debug_point = '$point:wait'");
	$target->reload;
	my $call;
	if ($foreground) { $call = start_psql($target, "CALL rehome.copy('$name')", name => 'leader') }
	else             { $pair->sql_target("CALL rehome.start('$name')") }
	my $pid = wait_for_lock_waiter($target, debug_lock()) or BAIL_OUT("nothing stops at $point");
	$pair->sql_target('ALTER SYSTEM RESET rehome.debug_point');
	$target->reload;
	return ($lock, $pid, $call);
}

sub let_go { my ($lock) = @_; $lock->{run}->kill_kill; return }

# In the background: whoever dies, the launcher and the worker bring it to its end.
my %death = (
	'the process is killed'     => sub { kill 9, $_[0]; wait_until($target, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $_[0])") },
	'the process is terminated' => sub { $pair->sql_target("SELECT pg_terminate_backend($_[0], 10000)") },
	'the target is killed'      => sub { kill_and_start($target) },
	'the source is killed'      => sub {
		kill_and_start($source);
		finish_pgbench($writer);
		$writer = start_pgbench($source, $load, rate => 200);
	});

for my $step (
	[ 'capture-installed', 'the process is killed' ],
	[ 'capture-installed', 'the source is killed' ],
	[ 'chunks-planned',    'the process is killed' ],
	[ 'chunks-planned',    'the target is killed' ],
	[ 'chunk-loaded',      'the process is killed' ],
	[ 'chunk-loaded',      'the process is terminated' ],
	[ 'chunk-loaded',      'the target is killed' ],
	[ 'chunk-loaded',      'the source is killed' ],
	[ 'rebuild',           'the process is killed' ],
	[ 'rebuild',           'the source is killed' ])
{
	my ($point, $what) = @$step;
	my $name = define();
	my ($lock, $pid) = stop_copy($name, $point);
	is($pair->sql_target("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND backend_type LIKE 'pg_rehome%'"), 1, "$point, $what: a worker stops there");
	$death{$what}->($pid);
	let_go($lock);
	ends_well($name, "$point, $what");
}

# In the foreground: the leader dies, its workers end, and calling again goes on.
{
	my $name = define();
	my ($lock, $pid, $call) = stop_copy($name, 'chunk-loaded', 1);
	isnt($pid, $pair->sql_target(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'leader'}), 'leader killed: a worker stops, not the leader');
	kill 9, $pair->sql_target(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'leader'});
	is(finish_psql($call)->{sqlstate}, '08006', 'leader killed: the session is lost');
	let_go($lock);
	ok(wait_until($target, 'SELECT NOT pg_is_in_recovery()'), 'leader killed: the target is back');
	is(finish_psql(start_psql($target, "CALL rehome.copy('$name')"))->{sqlstate}, '00000', 'leader killed: calling again goes on');
	ends_well($name, 'leader killed');
}
{
	# Some chunks are done, and stay as they are.
	my $name = define();
	my ($lock, $pid, $call) = stop_copy($name, 'chunks-planned', 1);
	# its workers start when the call goes on; one after the other they stop, since
	# the lock is asked for again before it is let go: few chunks take no time
	$pair->sql_target("ALTER SYSTEM SET rehome.debug_point = 'rebuild:wait'");
	$target->reload;
	my $next = $target->background_psql('postgres', on_error_stop => 0);
	my $holder = $next->query_safe('SELECT pg_backend_pid()');
	$next->query_until(qr/asking/, sprintf("\\echo asking\nSELECT pg_advisory_lock(%d, %d);\n", debug_lock()));
	my $asks = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $holder AND locktype = 'advisory' AND ";
	ok(wait_until($target, "$asks NOT granted)"), 'leader terminated: the next is in line');
	let_go($lock);
	$lock = $next;
	ok(wait_until($target, "$asks granted)"), 'leader terminated: and has its turn');
	ok(wait_for_lock_waiter($target, debug_lock()), 'leader terminated: a table is copied when it stops');
	my ($all, $done) = chunks($name);
	cmp_ok($done, '>', 0, 'leader terminated: chunks are done');
	$pair->sql_target("SELECT rehome.pause('$name')");
	$pair->sql_target(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'leader'});
	like(finish_psql($call)->{sqlstate}, qr/^(57P01|08006)$/, 'leader terminated: the session is lost');
	$pair->sql_target('ALTER SYSTEM RESET rehome.debug_point');
	$target->reload;
	let_go($lock);
	ok(wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_rehome copy')}), 'leader terminated: its workers end');
	my $marks = "SELECT string_agg(id || ' ' || done_at, ',' ORDER BY id) FROM rehome.chunk WHERE done_at IS NOT NULL";
	my $first = $pair->sql_target($marks);
	is((sqlstate_of($target, "CALL rehome.copy('$name')"))[0], 'RH009', 'leader terminated: paused, it is refused');
	$pair->sql_target("SELECT rehome.resume('$name')");
	# the worker that this starts may be at it already
	$target->psql('postgres', "CALL rehome.copy('$name')");
	ok($pair->wait_for_state($name, 'syncing'), 'leader terminated: the copy ends');
	my $second = $pair->sql_target($marks);
	is(substr($second, 0, length $first), $first, 'leader terminated: no chunk that was done is copied again');
	ends_well($name, 'leader terminated');
}
{
	# A table that is rewritten at the source between two attempts.
	my $name = define();
	my ($lock, $pid, $call) = stop_copy($name, 'chunk-loaded', 1);
	$pair->sql_target("SELECT rehome.pause('$name')");
	$pair->sql_target(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'leader'});
	finish_psql($call);
	let_go($lock);
	ok(wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_rehome copy')}), 'rewritten: workers have ended');
	$pair->sql_source('VACUUM FULL app.item');
	$pair->sql_target("SELECT rehome.resume('$name')");
	$target->psql('postgres', "CALL rehome.copy('$name')");
	ends_well($name, 'rewritten meanwhile');
}

{
	# A copy that is resumed leaves out what has changed; foreign keys may refer to
	# just that.
	my $schema = q{
		CREATE SCHEMA fk;
		CREATE TABLE fk.parent (id int PRIMARY KEY, qty int NOT NULL);
		CREATE TABLE fk.child (id int PRIMARY KEY, parent int NOT NULL REFERENCES fk.parent);
	};
	$pair->sql_source($schema);
	$pair->sql_target($schema);
	$pair->sql_source(q{
		INSERT INTO fk.parent SELECT i, 0 FROM generate_series(1, 10) i;
		INSERT INTO fk.child SELECT i, i FROM generate_series(1, 10) i;
	});
	$pair->sql_target(q{
		SELECT rehome.create_migration('fk', 'src', 'a test of foreign keys');
		SELECT rehome.add_schema('fk', 'fk', 'fk');
	});
	is(finish_psql(start_psql($target, q{CALL rehome.copy('fk')}, debug_point => 'chunks-planned:exit'))->{sqlstate}, '57P01', 'foreign keys: the copy breaks off');
	$pair->sql_source('UPDATE fk.parent SET qty = 1 WHERE id < 6; DELETE FROM fk.child WHERE id = 10; DELETE FROM fk.parent WHERE id = 10');
	my ($sqlstate, $message) = sqlstate_of($target, q{CALL rehome.copy('fk')});
	is($sqlstate, '00000', 'foreign keys: it is resumed, and ends') or diag($message);
	is($pair->sql_target(q{SELECT conname || ' ' || convalidated FROM pg_constraint WHERE conrelid = 'fk.child'::regclass AND contype = 'f'}),
		'child_parent_fkey true', 'foreign keys: they are there');
	$pair->sql_target(q{CALL rehome.sync('fk')});
	same_content($pair, [qw(fk.parent fk.child)], 'foreign keys: the same content on both sides');
	$pair->sql_target(q{CALL rehome.cancel('fk')});
}

# Cancelled when the source has something of ours already, of which this side was
# about to note more.
{
	my $name = define();
	is(finish_psql(start_psql($target, "CALL rehome.copy('$name')", debug_point => 'source-prepared:exit'))->{sqlstate}, '57P01', 'cancelled early: the copy breaks off');
	is($pair->sql_source(q{SELECT count(*) FROM rehome_source.slice}), 1, 'cancelled early: the source knows of it');
	$pair->sql_target("CALL rehome.cancel('$name')");
	is($pair->sql_source(q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'rehome%'}), 0, 'cancelled early: and nothing is left there');
}

{
	# A leader that is terminated leaves a worker behind, which reads at its snapshot;
	# by the time that looks up, another leads the copy, and a table that it had not
	# come to is rewritten: at the old snapshot it has no rows.
	my $schema = q{
		CREATE SCHEMA two;
		CREATE TABLE two.a (id int PRIMARY KEY, pad text);
		CREATE TABLE two.b (id int PRIMARY KEY, pad text);
	};
	$pair->sql_source($schema);
	$pair->sql_target($schema);
	$pair->sql_source(q{
		INSERT INTO two.a SELECT i, repeat('a', 100) FROM generate_series(1, 3000) i;
		INSERT INTO two.b SELECT i, repeat('b', 100) FROM generate_series(1, 1500) i;
	});
	$pair->sql_target(q{
		ALTER SYSTEM SET rehome.copy_workers = 1;
		SELECT rehome.create_migration('two', 'src', 'a test of two leaders');
		SELECT rehome.add_schema('two', 'two', 'two');
	});
	my ($lock, $pid) = stop_copy('two', 'chunk-loaded');
	is($pair->sql_target(q{SELECT part_table FROM rehome.chunk WHERE done_at IS NULL ORDER BY weight DESC LIMIT 1}), 'a', 'two leaders: the worker is at the larger table');
	my $leader = $pair->sql_target(q{SELECT worker FROM rehome.status WHERE migration = 'two'});
	isnt($leader, $pid, 'two leaders: and is not the leader');
	$pair->sql_target("SELECT pg_terminate_backend($leader, 10000)");
	$pair->sql_source('ALTER TABLE two.b SET UNLOGGED; ALTER TABLE two.b SET LOGGED');
	ok(wait_until($target, qq{SELECT EXISTS (SELECT FROM pg_locks l JOIN rehome.status s ON s.worker = l.pid
			WHERE s.migration = 'two' AND l.pid <> $leader AND l.locktype = 'advisory' AND NOT l.granted)}), 'two leaders: the next waits for what the worker does');
	is($pair->sql_target("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND backend_type = 'pg_rehome copy'"), 1, 'two leaders: which is still at it');
	let_go($lock);
	ok($pair->wait_for_state('two', 'syncing'), 'two leaders: the copy ends');
	same_content($pair, [qw(two.a two.b)], 'two leaders: no row is missing');
	$pair->sql_target(q{CALL rehome.cancel('two'); ALTER SYSTEM RESET rehome.copy_workers});
	$target->reload;
}

my $load_result = stop_pgbench($writer);
cmp_ok($load_result->{committed}, '>', 0, 'writers were at work to the end');
is_deeply($load_result->{errors}, [], 'and met no error');

# In the end once more, undisturbed, and compared in full.
my $name = define();
$pair->sql_target("CALL rehome.copy('$name')");
same_content($pair, \@content, 'the same content on both sides');

done_testing();
