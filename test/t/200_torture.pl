# The torture test. Clients run random transactions on tables with keys of every
# shape, and follow the authority; meanwhile an operator moves it there and back,
# and an actor kills sessions, workers and servers on both sides, cancels, stops
# processes, and stalls and cuts the network between the sides. In all of that:
#
#   - whoever looks at one side, at any instant, sees whole transactions, and none
#     that came before them missing: every batch is exact (TortureObserver.pm);
#   - after each round verification finds no difference, nor does a comparison that
#     knows nothing of it;
#   - what the clients saw committed is there, once, and nothing else; no side took
#     a write while the other had authority (TortureHistory.pm);
#   - no call fails for a reason of its own, and no server crashes but by our kill.
#
# Environment:
#
#   TORTURE_SEED     where everything random comes from; printed. The choices of a
#                    round depend on seed and round only (how the processes then
#                    interleave does not)
#   TORTURE_ROUNDS   how many rounds (default 3)
#   TORTURE_FIRST    the number of the first round (default 1): to choose again what
#                    a later round chose
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

use Proxy;
use RehomeTest;
use TortureActor;
use TortureClient;
use TortureHistory;
use TortureObserver;
use TortureProcess;
use TortureSchema qw(derived_tables derived_sql derived_wrong tables schema_sql load_sql violations weighted);

my $seed   = $ENV{TORTURE_SEED}   // int(rand 1_000_000_000);
my $rounds = $ENV{TORTURE_ROUNDS} // 3;
my $first  = $ENV{TORTURE_FIRST}  // 1;
my $clients = 4;
# Seconds around a crash in which a commit that does not wait for the disk may be
# lost: it is up to three times wal_writer_delay old, and the server takes a moment
# to notice that it crashes, on a machine that has other things to do.
my $async_loss = 5;

diag("torture: TORTURE_SEED=$seed TORTURE_FIRST=$first TORTURE_ROUNDS=$rounds");
srand($seed);

# By the seed: half of the runs connect to the source as a role without rights, so
# that its foreign keys and triggers fire for what is brought back.
my $proxy = Proxy->new;
my $conf  = q{
	log_line_prefix = '%m [%p] %e %q%a '
	log_statement = none
	restart_after_crash = on
	max_connections = 60
	shared_buffers = 16MB
	max_prepared_transactions = 20
	max_worker_processes = 16
	deadlock_timeout = 200ms
};
my $pair = new_pair(
	tcp            => 1,
	preload        => 1,
	role           => int(rand 2),
	server_options => { port => $proxy->port },
	source_conf    => $conf,
	target_conf    => "$conf\nrehome.naptime = 20ms\nrehome.retry_max = 300ms\nrehome.launcher_naptime = 200ms\nrehome.chunk_size = 64kB\nrehome.lock_timeout = 1s");
my %node = (source => $pair->source, target => $pair->target);
$proxy->start($node{source}->port, "$PostgreSQL::Test::Utils::log_path/200_torture_proxy.log");

for my $side (qw(source target))
{
	$node{$side}->safe_psql('postgres', schema_sql($side));
}
$pair->grant_source('app') if $pair->{role};
$pair->sql_source(load_sql());

my %dsn = map { $_ => join ';', 'host=' . $node{$_}->host, 'port=' . $node{$_}->port, 'dbname=' . $pair->dbname } keys %node;
my $logs = "$PostgreSQL::Test::Utils::log_path/200_torture";
my @clients = map {
	my $id = $_;
	TortureProcess->spawn("client $id", "${logs}_client_$id.log",
		sub { TortureClient::run($_[0], $id, "$logs.commits.$id", $seed, \%dsn) })
} 1 .. $clients;
my $observer = TortureProcess->spawn('observer', "${logs}_observer.log", sub { TortureObserver::run($_[0], \%dsn) });
my $actor = TortureActor->new($pair, $proxy, \%dsn);

sub tell_clients
{
	my ($line) = @_;
	$_->tell($line) for @clients;
	my @answers = map { $_->answer($PostgreSQL::Test::Utils::timeout_default) } @clients;
	return;
}

tell_clients('stop');
my $history = TortureHistory->new(map { "$logs.commits.$_" } 1 .. $clients);

# Where a run of rounds has to end: nothing after it would tell anything.
my $failed = 0;

sub check
{
	my ($name, @wrong) = @_;
	return ok(1, $name) unless @wrong;
	$failed = 1;
	ok(0, $name);
	my $more = @wrong - 20;
	diag(map { "  $_\n" } $more > 0 ? (@wrong[ 0 .. 19 ], "and $more more") : @wrong);
	return;
}

# ---------------------------------------------------------------------------
# A migration from its beginning, or anew.

sub define_and_start
{
	$pair->sql_target('TRUNCATE ' . join ', ', derived_tables(), map { "app.$_" } tables());
	# In a round without waiting for the disk a crash may take definitions away:
	# that is not what is to be borne.
	$pair->sql_target(q{
		SET synchronous_commit = on;
		SELECT rehome.create_migration('m', 'src', 'to see whether it bears that');
		SELECT rehome.add_schema('m', 'app', 'app');
	} . derived_sql());
	$actor->start_call(q{CALL rehome.start('m')});
	$actor->break if rand(3) < 1;
	$actor->mend;
	# whether it came through or not
	$actor->call_until_done(q{CALL rehome.start('m')});
	return;
}

# Takes everything back, while something breaks. The clients stay at the source:
# between the end of one migration and the start of the next, nothing keeps them
# off the target.
sub forget
{
	my ($round) = @_;
	$actor->mend;
	wait_for_peace($round);
	$actor->call_until_done(q{CALL rehome.rollback('m')}) if $actor->state eq 'cut_over';
	tell_clients('stay source');
	cancel($round);
	return;
}

sub cancel
{
	my ($round) = @_;
	$actor->start_call(q{CALL rehome.cancel('m')});
	$actor->break if rand(2) < 1;
	$actor->mend;
	$actor->call_until_done(q{CALL rehome.cancel('m')});
	my %left = (
		source => q{SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'rehome%'
			UNION ALL SELECT 'trigger ' || tgname || ' of ' || tgrelid::regclass FROM pg_trigger WHERE tgname LIKE 'rehome%'},
		target => q{SELECT 'trigger ' || tgname || ' of ' || tgrelid::regclass FROM pg_trigger WHERE tgname LIKE 'rehome%'
			UNION ALL SELECT 'change table ' || relname FROM pg_class WHERE relnamespace = 'rehome_change'::regnamespace AND relkind = 'r'
			UNION ALL SELECT 'not rebuilt: ' || name FROM rehome.saved_object WHERE rebuilt_at IS NULL});
	check("round $round: cancelled, and nothing is left", map { my $side = $_; map { "$side: $_" } split /\n/, $node{$side}->safe_psql('postgres', $left{$side}) } sort keys %left);
	$pair->sql_target(q{SELECT rehome.drop_migration('m')});
	return;
}

# ---------------------------------------------------------------------------
# A round: what is chosen for it, and what has to hold after it.

# Whatever was interrupted is ended by the worker alone. It cannot know of a
# COMMIT that is still on its way to the source: peace is what it finds after
# the last has arrived, and the row it changes is free.
sub wait_for_peace
{
	my ($round) = @_;
	sleep 0.01 while $proxy->late; # another process has it: to be polled
	$pair->sql_source('SELECT FROM rehome_source.slice FOR UPDATE');
	my $since = $pair->sql_target('SELECT clock_timestamp()');
	my $well = wait_until($node{target}, qq{
		SELECT state IN ('syncing', 'cut_over') AND error IS NULL AND worker IS NOT NULL
		   AND clock_timestamp() - staleness > '$since' AND staleness < interval '5 s'
		  FROM rehome.status WHERE migration = 'm'});
	check("round $round: the slice is at peace again", $well ? () : $pair->sql_target(q{SELECT s::text FROM rehome.status s}));
	return;
}

# Which side's commits do not wait for the disk in this round. No client has a
# session while that changes.
my %async = (source => 0, target => 0);

sub set_async
{
	for my $side (sort keys %async)
	{
		$async{$side} = rand(3) < 1;
		my $value = $async{$side} ? 'off' : 'on';
		$node{$side}->safe_psql('postgres', "ALTER SYSTEM SET synchronous_commit = $value");
		$node{$side}->safe_psql('postgres', 'SELECT pg_reload_conf()');
		wait_until($node{$side}, "SELECT current_setting('synchronous_commit') = '$value'") or die "synchronous_commit does not change\n";
	}
	return;
}

sub checks
{
	my ($round) = @_;
	$actor->mend;
	wait_for_peace($round);
	check("round $round: no call failed for a reason of its own", $actor->wrong);
	check_logs("round $round");
	my ($state, $authority) = split /\|/, $pair->sql_target(q{SELECT state, authority FROM rehome.status WHERE migration = 'm'});
	my $at_source = $pair->sql_source(q{SELECT authority FROM rehome_source.slice});
	check("round $round: both sides agree who has authority", $authority eq $at_source ? () : "here $authority, there $at_source");

	# on live data, with what others do to locks meanwhile
	my $verified;
	for (1 .. 10)
	{
		$verified = finish_psql(start_psql($node{target}, q{SELECT v FROM rehome.verify('m', mode => 'rows') v WHERE NOT ok}));
		last if $verified->{sqlstate} !~ /^(?:RH004|55P03|40001|40P01)$/;
	}
	check("round $round: verification of every row finds no difference",
		$verified->{sqlstate} ne '00000' ? $verified->{stderr} : (split(/\n/, $verified->{stdout}), split /\n/, $pair->sql_target(q{
		SELECT d.target || ' ' || d.key || ' ' || d.kind || ' source ' || coalesce(d.source_row::text, '-') || ' target ' || coalesce(d.target_row::text, '-')
		  FROM rehome.discrepancy d WHERE resolved_at IS NULL})));

	tell_clients('stop');
	my ($sqlstate, @error) = sqlstate_of($node{target}, q{CALL rehome.sync('m')});
	check("round $round: in sync", $sqlstate eq '00000' ? () : "$sqlstate @error");
	check("round $round: what is derived is what is there", split /\n/, $pair->sql_target(derived_wrong())) if $state eq 'syncing';
	same_content($pair, [ map { "app.$_" } tables() ],
		"round $round: the same content on both sides") or $failed = 1;
	for my $side (sort keys %node)
	{
		check("round $round: at rest the $side adds up", split /\n/, $node{$side}->safe_psql('postgres', violations()));
	}
	check_history("round $round", $authority);

	my $seen = $observer->ask('seen', $PostgreSQL::Test::Utils::timeout_default);
	check("round $round: at every instant both sides added up", $seen =~ /^wrong/ ? $seen : ());
	note("snapshots observed at source and target: $seen");
	return $authority;
}

sub check_history
{
	my ($round, $side) = @_;
	my @rows = map { [ split /\|/ ] } split /\n/, $node{$side}->safe_psql('postgres', 'SELECT client, seq, side, register, version FROM app.history');
	my @switches = ([ 0, 'source' ], map { [ split /\|/ ] } split /\n/, $pair->sql_target(q{
		SELECT extract(epoch FROM at), CASE kind WHEN 'cutover' THEN 'target' ELSE 'source' END
		  FROM rehome.event WHERE kind IN ('cutover', 'rollback') ORDER BY id}));
	my $crashes = $actor->crashes;
	my %losses;
	for my $crashed (sort keys %async)
	{
		$losses{$crashed} = [ map { [ $_ - $async_loss, $_ + $async_loss ] } @{ $crashes->{$crashed} } ] if $async{$crashed};
	}
	my ($count, @wrong) = $history->check(\@rows, \@switches, \%losses);
	check("$round: what was committed is there once, under one authority at a time", @wrong);
	check("$round: clients got on", ($count->{committed} // 0) > 0 ? () : 'no transaction was committed');
	note("transactions: " . join(', ', map { "$count->{$_} $_" } sort keys %$count) . "; " . (@switches - 1) . ' switches so far');
	return;
}

# Crashes that were not ours, errors that cannot happen, and those that no session
# of ours, at either side, may meet: in the logs, since they were last read. Where
# the source's foreign keys fire, what they refuse is tried again in another order.
my %logged;
my %read = (source => 0, target => 0);

sub check_logs
{
	my ($name) = @_;
	for my $side (sort keys %node)
	{
		my $log = slurp_file($node{$side}->logfile, $read{$side});
		$read{$side} += length $log;
		my (@crashes, @errors);
		for my $line (split /\n/, $log)
		{
			my ($sqlstate, $application, $level, $message) =
			  $line =~ /^\S+ \S+ \S+ \[\d+\] (\w{5}) ([^:]*?)(LOG|WARNING|ERROR|FATAL|PANIC):  (.*)/ or next;
			push @crashes, $line if $level eq 'PANIC' || $message =~ /was terminated by (?:signal (?!9\b)|exception)/;
			next if $level eq 'LOG';
			$logged{$side}{$sqlstate}++;
			push @errors, $line
			  if $sqlstate =~ /^XX/
			  || $level ne 'WARNING' && $application !~ /^(?:torture_|200_torture)/ && !$actor->is_expected($sqlstate)
			  && !($side eq 'source' && $pair->{role} && $sqlstate =~ /^23/);
		}
		push @crashes, grep { /^TRAP:/ } split /\n/, $log;
		check("$name: no crash of the $side but ours", @crashes);
		check("$name: no error at the $side that cannot happen", @errors);
	}
	return;
}

# The round's history has been checked: it becomes the base of the next one's.
sub compact
{
	my ($round, $side) = @_;
	$node{$side}->safe_psql('postgres', qq{
		BEGIN;
		DELETE FROM app.history;
		WITH gone AS (DELETE FROM app.effect RETURNING tab, rows, qty)
		INSERT INTO app.effect SELECT 0, $round, tab, sum(rows), sum(qty) FROM gone GROUP BY tab;
		UPDATE app.register SET base = version;
		COMMIT;});
	return;
}

my ($running, $began, $stage) = (0, time, 'the beginning');

sub run_round
{
	my ($round) = @_;
	srand($seed * 7919 + $round);
	my $since = time;
	$stage = "round $round";
	set_async();
	tell_clients("round $round");
	tell_clients('stay source') if !$running;
	tell_clients('go');
	my $anew = rand(5) < 1;
	if ($running && $anew)
	{
		forget($round);
		$running = 0;
	}
	if (!$running)
	{
		define_and_start();
		if (rand(3) < 1)
		{
			$actor->break;
			$actor->mend;
			cancel($round);
			define_and_start();
		}
		tell_clients('follow');
		$actor->break for 1 .. rand 3;
		$actor->mend;
		$running = 1;
		check("round $round: the copy ends", $pair->wait_for_state('m', 'syncing') ? () : 'it does not');
	}
	for (0 .. 3 + rand 4)
	{
		$actor->operate;
		$actor->let_run;
		$actor->break for 1 .. weighted([ [ 9, 0 ], [ 8, 1 ], [ 3, 2 ] ]);
		$actor->await_calls(weighted([ [ 7, 0 ], [ 3, 1 ] ]));
	}
	if (rand(2) < 1)
	{
		$actor->mend;
		wait_for_peace($round);
		$actor->call_until_done('CALL rehome.' . ($actor->state eq 'cut_over' ? 'rollback' : 'cutover') . q{('m')});
	}
	my $side = checks($round);
	note(sprintf 'round %d took %.1f s', $round, time - $since);
	compact($round, $side) unless $failed;
	return;
}

sub run_end
{
	$stage = 'the end';
	tell_clients('go');
	$actor->call_until_done(q{CALL rehome.cutover('m')});
	my $to = $pair->sql_target('SELECT sum(version) + 20 FROM app.register');
	ok(wait_until($node{target}, "SELECT sum(version) >= $to FROM app.register"), 'the end: clients write to the target') or $failed = 1;
	$actor->call_until_done(q{CALL rehome.complete('m')});
	$to = $pair->sql_target('SELECT sum(version) + 20 FROM app.register');
	ok(wait_until($node{target}, "SELECT sum(version) >= $to FROM app.register"), 'the end: completed, and they go on') or $failed = 1;
	tell_clients('stop');
	check('the end: no call failed for a reason of its own', $actor->wrong);
	is((sqlstate_of($node{source}, 'UPDATE app.register SET version = version'))[0], '25006', 'the end: the fence stays closed') or $failed = 1;
	check('the end: the target adds up', split /\n/, $pair->sql_target(violations()));
	check_history('the end', 'target');
	check_logs('the end');
	return;
}

my $came_through = eval {
	for my $round ($first .. $first + $rounds - 1)
	{
		run_round($round);
		last if $failed;
	}
	run_end() unless $failed;
	1;
};
check('the rounds came to their end', $came_through ? () : $@);
diag("torture: TORTURE_SEED=$seed failed in $stage; the last actions:\n", map { "  $_\n" } $actor->actions) if $failed;

is($_->finish, 0, $_->name . ' ended well') for @clients, $observer;

for my $side (sort keys %node)
{
	note("SQLSTATEs in the log of the $side: " . join ', ', map { "$_ $logged{$side}{$_}" } sort keys %{ $logged{$side} });
}
note('SQLSTATEs of calls: ' . join ', ', map { "$_ $actor->{sqlstates}{$_}" } sort keys %{ $actor->{sqlstates} });
note('commits of a move that broke: ' . $proxy->sprung);
is($proxy->finish, 0, 'the proxy ended well');
note('broken: ' . join ', ', map { "$_ $actor->{done}{$_}" } sort keys %{ $actor->{done} });
note(sprintf '%.0f s in all', time - $began);

done_testing();
