# Whatever dies while authority moves, and wherever: at no time do both sides
# take a write, between the two commits neither does, rehome.recover() or the
# worker ends it, and then nothing that was accepted is lost or doubled.
#
# Every accepted write inserts a row of app.mark and adds one to the same row of
# app.item; what the sides said they took is compared with what they have.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(
	fsync       => 1,
	target_conf => "restart_after_crash = on\nrehome.retry_max = 500ms\nrehome.naptime = 50ms\nrehome.launcher_naptime = 500ms");
my ($source, $target) = ($pair->source, $pair->target);

my $tables = q{
	CREATE SCHEMA app;
	CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL, code text UNIQUE);
	CREATE TABLE app.mark (id int PRIMARY KEY, side text NOT NULL);
};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(q{INSERT INTO app.item SELECT i, 0, 'code ' || i FROM generate_series(1, 200) i});

# A place between the commits that has no debug point: the source stops inside
# its COMMIT of a change of authority as long as a test holds the lock (77, 1).
my @commit_gate = (77, 1);
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of what dies when');
	SELECT rehome.add_schema('m', 'app', 'app');
	CALL rehome.copy('m');
});
$pair->sql_source(q{
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
	-- like a COMMIT that waits for a standby, it does not look whether its client is still there
	$$BEGIN IF current_setting('client_connection_check_interval', true) IS NOT NULL THEN
			PERFORM set_config('client_connection_check_interval', '0', true);
		END IF;
		PERFORM pg_advisory_xact_lock_shared(77, 1); RETURN NULL; END$$;
	CREATE CONSTRAINT TRIGGER gate AFTER UPDATE ON rehome_source.slice DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (OLD.authority <> NEW.authority) EXECUTE FUNCTION gate();
	ALTER TABLE rehome_source.slice ENABLE ALWAYS TRIGGER gate;
});

my $accepted = 0;
my $attempts = 0;

# The same row on one side; returns the SQLSTATE.
sub try_write
{
	my ($node) = @_;
	my $id = ++$attempts;
	my ($sqlstate) = sqlstate_of($node, sprintf q{
		SET lock_timeout = '100ms';
		BEGIN;
		UPDATE app.item SET qty = qty + 1 WHERE id = 1;
		UPDATE app.item SET id = -id, code = code || '.' WHERE id IN (2, -2);
		INSERT INTO app.mark VALUES (%d, '%s');
		COMMIT;
	}, $id, $node->name);
	$accepted++ if $sqlstate eq '00000';
	return $sqlstate;
}

# Who takes a write now: 'source', 'target', 'none' or 'both'; and a test that
# whoever does not refuses it as it should.
sub takers
{
	my ($name) = @_;
	my %sqlstate = map { $_->name => try_write($_) } $source, $target;
	my @takers = grep { $sqlstate{$_} eq '00000' } sort keys %sqlstate;
	my @strange = grep { $sqlstate{$_} !~ /^(00000|25006|55P03)$/ } sort keys %sqlstate;
	is_deeply(\@strange, [], "$name: a write is taken, refused (25006) or made to wait")
	  or diag(join ', ', map { "$_: $sqlstate{$_}" } sort keys %sqlstate);
	return @takers == 2 ? 'both' : $takers[0] // 'none';
}

sub status
{
	my ($column) = @_;
	return $pair->sql_target("SELECT $column FROM rehome.status WHERE migration = 'm'");
}

# Nothing lost, nothing doubled, and the same on both sides.
sub check_contents
{
	my ($name) = @_;
	$pair->sql_target(q{CALL rehome.sync('m')});
	same_content($pair, [qw(app.item app.mark)], "$name: the same content on both sides");
	is($pair->sql_target(q{SELECT count(*) || ' ' || (SELECT qty FROM app.item WHERE id = 1) FROM app.mark}),
		"$accepted $accepted", "$name: every write that was accepted is there once");
	return;
}

# After an interruption: at most one side takes writes, recover ends it, exactly
# one does and both sides agree which; and what was interrupted can be done again.
sub recover_and_repeat
{
	my ($name, $op, $by_worker) = @_;
	isnt(takers("$name, before recovery"), 'both', "$name: before recovery not both sides take writes");
	if ($by_worker)
	{
		ok(wait_until($target, q{SELECT state IN ('syncing', 'cut_over') AND error IS NULL AND worker IS NOT NULL FROM rehome.status}),
			"$name: a worker is there");
	}
	else
	{
		ok(wait_until($target, q{SELECT true}), "$name: the target is there");
		my $recovered = $target->psql('postgres', q{CALL rehome.recover('m')});
		is($recovered, 0, "$name: rehome.recover() ends it");
	}
	ok(wait_until($target, q{
			SELECT state IN ('syncing', 'cut_over') FROM rehome.status}),
		"$name: the slice is in a durable state");
	my $takes = $by_worker ? eventual_taker($name) : takers("$name, after recovery");
	is($takes, status('authority'), "$name: who takes writes is who has authority");
	is($pair->sql_source('SELECT authority FROM rehome_source.slice'), status('authority'), "$name: the source agrees");

	my $wanted = $op eq 'cutover' ? 'cut_over' : 'syncing';
	if (status('state') ne $wanted)
	{
		my ($sqlstate, $message) = sqlstate_of($target, "CALL rehome.$op('m')");
		is($sqlstate, '00000', "$name: $op can be called again") or diag($message);
		ok(wait_until($target, "SELECT state = '$wanted' FROM rehome.status"), "$name: and succeeds");
	}
	is(takers("$name, in the end"), $op eq 'cutover' ? 'target' : 'source', "$name: in the end the right side takes writes");
	check_contents($name);
	return;
}

# The worker needs a moment until it meets what a crash left.
sub eventual_taker
{
	my ($name) = @_;
	my $taker = 'none';
	my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
	while ($taker eq 'none' && time < $limit)
	{
		$taker = takers("$name, while the worker recovers");
	}
	return $taker;
}

# Starts the call and waits until it stops at the point; returns the handle, the
# lock that holds it there, and the pid of its backend.
sub stop_at
{
	my ($op, $point, $sql) = @_;
	my $at_source = $point eq 'source-commit';
	my ($node, @lock) = $at_source ? ($source, @commit_gate) : ($target, debug_lock());
	my $lock = hold_lock($node, @lock);
	my $call = start_psql($target, $sql // "CALL rehome.$op('m')",
		name => 'switcher', $at_source ? () : (debug_point => "$point:wait"));
	my $waits = wait_for_lock_waiter($node, @lock);
	my $pid = $target->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE application_name = 'switcher'});
	ok(defined $waits && $pid, "$op stops at $point") or BAIL_OUT("nothing stops at $point: $call->{stderr}");
	return ($call, $lock, $pid);
}

sub let_go
{
	my ($lock) = @_;
	# The session may have died with its server; then it is not asked to quit.
	$lock->{run}->kill_kill;
	return;
}

my %action = (
	'the target crashes' => sub {
		my ($call, $lock, $pid) = @_;
		kill 9, $pid;
		# every other session of that server goes down with it
		is(finish_psql($call)->{sqlstate}, '08006', 'the session has lost its connection');
		wait_until($target, 'SELECT NOT pg_is_in_recovery()');
		let_go($lock);
	},
	'the source is killed' => sub {
		my ($call, $lock) = @_;
		kill_and_start($source);
		let_go($lock);
		finish_psql($call);
	},
	'the session is terminated' => sub {
		my ($call, $lock, $pid, $uninterruptible) = @_;
		$pair->sql_target("SELECT pg_terminate_backend($pid)");
		let_go($lock) if $uninterruptible;
		like(finish_psql($call)->{sqlstate}, qr/^(57P01|08006)$/, 'the session was terminated');
		let_go($lock) unless $uninterruptible;
	},
	'the session is cancelled' => sub {
		my ($call, $lock, $pid, $uninterruptible) = @_;
		$pair->sql_target("SELECT pg_cancel_backend($pid)");
		let_go($lock) if $uninterruptible;
		my $result = finish_psql($call);
		# what cannot be stopped any more may still be done before it hears of it
		like($result->{sqlstate}, $uninterruptible ? qr/^(57014|00000)$/ : qr/^57014$/, 'the session was cancelled');
		let_go($lock) unless $uninterruptible;
	});

# What may take writes while a call stands at a point.
my %taker_at = (
	'cutover frozen'               => 'none',
	'cutover before-remote-commit' => 'none',
	'cutover source-commit'        => 'none',
	'cutover after-remote-commit'  => 'none',
	'rollback frozen'              => 'none',
	'rollback reverse-applied'     => 'target',    # while draining, nothing is frozen
	'rollback source-commit'       => 'none',
	'recover given-back'           => 'source');

sub interrupt
{
	my ($op, $point, $what) = @_;
	my $name = "$op, $point, $what";
	my ($call, $lock, $pid) = stop_at($op, $point);
	is(takers($name), $taker_at{"$op $point"}, "$name: who takes writes meanwhile");
	# when the COMMIT is on its way to the source, both can only go on
	$action{$what}->($call, $lock, $pid, $point eq 'source-commit');
	recover_and_repeat($name, $op);
	return;
}

# A rollback whose source is killed before it took over, with nobody who ends it.
sub leave_rolling_back
{
	my ($call, $lock) = stop_at('rollback', 'source-commit');
	is(takers('rolling back'), 'none', 'rolling back: nobody takes writes');
	kill_server($source);
	let_go($lock);
	isnt(finish_psql($call)->{sqlstate}, '00000', 'rolling back: the call says that it is not done');
	stop_worker();
	is(status('state'), 'rolling_back', 'rolling back: the state says so');
	$source->start;
	is(takers('rolling back'), 'none', 'rolling back: nobody takes writes after the loss of the source');
	return;
}

# Without the launcher none is started again before somebody asks for it.  One
# that a call has asked for may not have begun yet, and nobody sees it then: only
# a restart ends that one, too.
sub stop_worker
{
	$target->restart;
	return;
}

sub interrupt_recovery
{
	my ($what) = @_;
	my $name = "recovery of a rollback, given-back, $what";
	leave_rolling_back();
	if ($what eq 'an error')
	{
		like(finish_psql(start_psql($target, q{CALL rehome.recover('m')}, debug_point => 'given-back:error'))->{stderr},
			qr/debug point "given-back" reached/, "$name: the call fails");
	}
	else
	{
		my ($call, $lock, $pid) = stop_at('recover', 'given-back');
		is(takers($name), $taker_at{'recover given-back'}, "$name: who takes writes meanwhile");
		$action{$what}->($call, $lock, $pid);
	}
	recover_and_repeat($name, 'rollback');
	return;
}

is(takers('at first'), 'source', 'at first the source takes writes');
check_contents('at first');

# Cutover and rollback in turns: each round ends with what was interrupted done.
# Where there is a debug point, errors follow below.
my @all = sort keys %action;
my @harder = grep { $_ ne 'the session is cancelled' } @all;
my @cutovers = (
	(map { my $point = $_; map { [ $point, $_ ] } @harder } qw(frozen before-remote-commit after-remote-commit)),
	(map { [ 'source-commit', $_ ] } @all),
	[ 'frozen', 'the session is cancelled' ]);
my @rollbacks = (
	(map { my $point = $_; map { [ $point, $_ ] } @harder } qw(frozen reverse-applied)),
	(map { [ 'source-commit', $_ ] } @all),
	(map { [ 'given-back', $_ ] } @harder, 'an error'));
is(scalar @cutovers, scalar @rollbacks, 'as many cutovers as rollbacks');
while (@cutovers)
{
	interrupt('cutover', @{ shift @cutovers });
	my ($point, $what) = @{ shift @rollbacks };
	if   ($point eq 'given-back') { interrupt_recovery($what) }
	else                          { interrupt('rollback', $point, $what) }
}

# An error, at points that a session may pass several times; without a worker,
# which could move the rows that make a batch.
stop_worker();
for my $point (qw(batch-read batch-applied frozen before-remote-commit after-remote-commit))
{
	my $name = "cutover, error at $point";
	is(takers($name), 'source', "$name: before, the source takes writes");
	my $result = finish_psql(start_psql($target, q{BEGIN; CALL rehome.cutover('m'); COMMIT}, debug_point => "$point:error"));
	like($result->{stderr}, qr/debug point "$point" reached/, "$name: the call fails");
	is(takers($name), 'source', "$name: undone at once, without recover()");
}
check_contents('after the errors of a cutover');
$pair->sql_target(q{CALL rehome.cutover('m')});
stop_worker();
for my $point (qw(frozen reverse-applied))
{
	my $name = "rollback, error at $point";
	is(takers($name), 'target', "$name: before, the target takes writes");
	my $result = finish_psql(start_psql($target, q{BEGIN; CALL rehome.rollback('m'); COMMIT}, debug_point => "$point:error"));
	like($result->{stderr}, qr/debug point "$point" reached/, "$name: the call fails");
	is(takers($name), 'target', "$name: undone at once, without recover()");
}
check_contents('after the errors of a rollback');
$pair->sql_target(q{CALL rehome.rollback('m')});

# A COMMIT that reaches the source late: its backend, busy with it, does not
# notice that the target has died.  Meanwhile the target recovers.
{
	my $name = 'the COMMIT of a cutover comes late';
	my ($call, $lock, $pid) = stop_at('cutover', 'source-commit');
	kill 9, $pid;
	finish_psql($call);
	wait_until($target, 'SELECT NOT pg_is_in_recovery()');
	is(takers($name), 'none', "$name: nobody takes writes while it is on its way");
	let_go($lock);
	ok(wait_until($source, q{SELECT authority = 'target' FROM rehome_source.slice}), "$name: it arrives");
	is(takers($name), 'none', "$name: nobody takes writes when it has arrived");
	recover_and_repeat($name, 'cutover');
}
{
	my $name = 'the COMMIT of a rollback comes late';
	my ($call, $lock, $pid) = stop_at('rollback', 'source-commit');
	kill 9, $pid;
	finish_psql($call);
	wait_until($target, 'SELECT NOT pg_is_in_recovery()');
	is(takers($name), 'none', "$name: nobody takes writes while it is on its way");

	# recover() has seen that the source has not taken over, and waits for the
	# row that says so, when the COMMIT comes after all and writers go on.
	my $park = hold_lock($target, debug_lock());
	my $recover = start_psql($target, q{SET rehome.lock_timeout = '1min'; CALL rehome.recover('m')}, name => 'recoverer', debug_point => 'reverse-applied:wait');
	ok(wait_until($source, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome recover%' AND wait_event_type = 'Lock'}),
		"$name: recover() waits for the source's row");
	let_go($lock);
	ok(wait_until($source, q{SELECT authority = 'source' FROM rehome_source.slice}), "$name: it arrives");
	my $taker = takers($name);
	is($taker, 'source', "$name: the source takes writes when it has arrived");
	let_go($park);
	is(finish_psql($recover)->{sqlstate}, '00000', "$name: recover() succeeds");
	recover_and_repeat($name, 'rollback');
}

# With the library preloaded nobody has to call anything.
$target->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_rehome'\nrehome.databases = 'postgres'");
$target->restart;
for my $step ([ 'cutover', 'after-remote-commit' ], [ 'rollback', 'source-commit' ])
{
	my ($op, $point) = @$step;
	my $name = "$op, $point, the target crashes and starts its workers";
	my ($call, $lock, $pid) = stop_at($op, $point);
	$action{'the target crashes'}->($call, $lock, $pid);
	recover_and_repeat($name, $op, 1);
}
is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('m', mode => 'rows')}), 't', 'verification agrees');

done_testing();
