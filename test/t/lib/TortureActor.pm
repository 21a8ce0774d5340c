# TortureActor: who breaks things in the torture test, and who meanwhile goes on
# operating the migration as if nothing were.
#
# Everything it does is chosen by rand, and noted. A call may fail, when its
# session, a server or the network was broken, or another call was faster; but
# only with an SQLSTATE that says so.
package TortureActor;

use strict;
use warnings;

use DBI;
use DBD::Pg;
use POSIX ();
use RehomeTest;
use Test::More;
use Time::HiRes qw(time sleep usleep);
use TortureSchema qw(pick weighted);

# What a call may end with: a connection was lost (08, 57P), it was cancelled
# (57014), others held locks (55P03, 40P01, 40001, RH004), the source's timeouts
# ended a freeze (25P03, RH005), another call was faster (RH001, 55006), paused
# (RH009), interrupted (RH007, RH008).
my $expected = qr/^(?:00000|08...|57P0[1235]|57014|55P03|40P01|40001|25P03|55006|RH00[145789])$/;

sub new
{
	my ($class, $pair, $proxy, $dsn) = @_;
	return bless {
		pair => $pair, proxy => $proxy, dsn => $dsn,
		calls => [], actions => [], wrong => [], sqlstates => {}, done => {}, crashes => { source => [], target => [] }
	}, $class;
}

# A line for the log, and for the report of a failure.
sub note_action
{
	my ($self, $what) = @_;
	my $now = time;
	my $line = POSIX::strftime('%H:%M:%S', localtime $now) . sprintf('.%03d %s', 1000 * ($now - int $now), $what);
	push @{ $self->{actions} }, $line;
	shift @{ $self->{actions} } if @{ $self->{actions} } > 60;
	print "# $line\n";
	return;
}

sub actions { return @{ $_[0]{actions} } }

sub is_expected { return $_[1] =~ $expected }

# What was wrong since it was last asked.
sub wrong { return splice @{ $_[0]{wrong} } }

# When servers were crashed, since it was last asked: {side => [time, ...]}.
sub crashes
{
	my ($self) = @_;
	my $crashes = $self->{crashes};
	$self->{crashes} = { source => [], target => [] };
	return $crashes;
}

sub node { return $_[1] eq 'source' ? $_[0]{pair}->source : $_[0]{pair}->target }

# A column of a query's answer, by a session that is kept; nothing when the server
# is not there.
sub ask
{
	my ($self, $side, $sql) = @_;
	# the session that was kept may have died with its server
	for my $try (1, 2)
	{
		my $answer = eval {
			$self->{session}{$side} //= DBI->connect("dbi:Pg:$self->{dsn}{$side};application_name=torture_actor", undef, undef,
				{ AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0, pg_server_prepare => 0 });
			$self->{session}{$side}->selectcol_arrayref($sql);
		};
		return @$answer if $answer;
		my $error = $@;
		my $dbh = delete $self->{session}{$side} // next;
		die $error if $dbh->ping > 0;
		local $dbh->{RaiseError} = 0;
		$dbh->disconnect;
	}
	return;
}

# The state of the slice, as far as it can be told.
sub state
{
	my ($self) = @_;
	my ($state) = $self->ask('target', q{SELECT state FROM rehome.status WHERE migration = 'm'});
	return $state // 'unknown';
}

=pod

=head1 Operating

start_call starts a call in the background, await_calls waits until no more than
so many run, and judges those that ended; call does both and returns the SQLSTATE.

=cut

sub start_call
{
	my ($self, $sql, $debug_point) = @_;
	$self->note_action($sql . ($debug_point ? ", to end at $debug_point" : ''));
	my $call = start_psql($self->node('target'), $sql, name => 'torture call', $debug_point ? (debug_point => $debug_point) : ());
	@{$call}{qw(sql began crashes)} = ($sql, time, ($debug_point // '') =~ /:crash/);
	push @{ $self->{calls} }, $call;
	return $call;
}

sub await_calls
{
	my ($self, $left) = @_;
	my $last;
	while (@{ $self->{calls} } > $left)
	{
		my ($ended) = grep { !psql_running($_) } @{ $self->{calls} };
		# none has: the oldest is waited for
		$ended //= $self->{calls}[0];
		$last = $self->judge($ended);
		@{ $self->{calls} } = grep { $_ != $ended } @{ $self->{calls} };
	}
	return $last;
}

sub judge
{
	my ($self, $call) = @_;
	my $result = finish_psql($call);
	my ($first) = $result->{stderr} =~ /((?:ERROR|FATAL|PANIC):.*)/;
	$self->note_action(sprintf '... %s after %.1f s: %s%s', $result->{sqlstate}, time - $call->{began}, $call->{sql}, defined $first ? " ($first)" : '');
	$self->{sqlstates}{ $result->{sqlstate} }++;
	# it was somewhere in there
	push @{ $self->{crashes}{target} }, $call->{began}, time if $call->{crashes} && $result->{sqlstate} ne '00000';
	push @{ $self->{wrong} }, "$call->{sql}: $result->{sqlstate}\n$result->{stderr}" if $result->{sqlstate} !~ $expected;
	push @{ $self->{wrong} }, "$call->{sql} found a difference: $result->{stdout}" if $call->{sql} =~ /verify/ && $result->{stdout} =~ /^f$/m;
	return $result->{sqlstate};
}

sub call
{
	my ($self, $sql) = @_;
	$self->await_calls(0);
	$self->start_call($sql);
	return $self->await_calls(0);
}

# Calls until it succeeds; whatever was broken is whole again.
sub call_until_done
{
	my ($self, $sql) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	until ($self->call($sql) eq '00000')
	{
		die "$sql does not succeed\n" if time > $until || @{ $self->{wrong} };
		$self->await_server($_) for qw(source target);
	}
	return;
}

# Where a call can be made to end, by what it does; a point it does not come to
# does nothing.
my @batch  = qw(batch-read batch-applied reverse-applied);
my @switch = qw(frozen before-remote-commit after-remote-commit given-back);

sub operate
{
	my ($self) = @_;
	my $state = $self->state;
	my $switch = $state eq 'cut_over' ? 'rollback' : 'cutover';
	# paused, hardly anything else could be done
	my $resume = ($self->{last} // '') =~ /pause/ ? 60 : 4;
	my $sql = weighted([
		[ 50, "CALL rehome.$switch('m')" ],
		[ 5, q{CALL rehome.cutover('m')} ],
		[ 5, q{CALL rehome.rollback('m')} ],
		[ 10, q{CALL rehome.sync('m')} ],
		[ 8, q{SELECT ok FROM rehome.verify('m', mode => 'hash')} ],
		[ 5, q{SELECT ok FROM rehome.verify('m', mode => 'rows')} ],
		[ 5, q{CALL rehome.recover('m')} ],
		[ 4, q{BEGIN; CALL rehome.cutover('m'); ROLLBACK} ],
		[ 4, q{BEGIN; CALL rehome.rollback('m'); COMMIT} ],
		[ 4, q{SELECT rehome.pause('m')} ],
		[ $resume, q{SELECT rehome.resume('m')} ],
		[ 3, q{CALL rehome.start('m')} ] ]);
	$self->{last} = $sql;
	my $point = rand(5) < 1 ? pick($sql =~ /cutover|rollback/ ? (@batch, (@switch) x 2) : @batch) . ':' . pick(qw(crash exit)) : undef;
	if (rand(4) < 1)
	{
		my $trap = pick('lost', 'unheard', 'late ' . int rand 3000);
		$self->note_action("network: trap $trap");
		$self->{proxy}->set("trap $trap");
	}
	$self->start_call($sql, $point);
	return;
}

# Lets the calls come somewhere: now and then to where they hold the targets'
# locks, and authority is about to move.
sub let_run
{
	my ($self) = @_;
	if (rand(2) < 1)
	{
		my $until = time + 10;
		my $frozen;
		until ($frozen || time > $until || !grep { psql_running($_) } @{ $self->{calls} })
		{
			($frozen) = $self->ask('target', q{
				SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
				 WHERE application_name = 'torture call' AND mode = 'ShareRowExclusiveLock' AND granted LIMIT 1});
			# it is another process: nothing to wait on
			sleep 0.02;
		}
		sleep rand 0.3;
	}
	else
	{
		sleep rand 0.5;
	}
	return;
}

=pod

=head1 Breaking

=cut

my %breaker = (
	'kill a session of ours at the source' => [ 10, sub {
		my ($self) = @_;
		$self->kill_backend('source', q{application_name LIKE 'pg_rehome%'});
	} ],
	'kill a session of a client' => [ 4, sub {
		my ($self) = @_;
		$self->kill_backend(pick(qw(source target)), q{application_name LIKE 'torture_client%'});
	} ],
	'kill a worker' => [ 8, sub {
		my ($self) = @_;
		$self->kill_backend('target', q{backend_type LIKE 'pg_rehome%'});
	} ],
	'kill the session of a call' => [ 8, sub {
		my ($self) = @_;
		$self->kill_backend('target', q{application_name = 'torture call'});
	} ],
	'kill a server' => [ 7, sub {
		my ($self) = @_;
		$self->kill_whole(pick(qw(source target)));
	} ],
	'kill both servers' => [ 1, sub {
		my ($self) = @_;
		$self->kill_whole($_) for rand(2) < 1 ? qw(source target) : qw(target source);
	} ],
	'terminate' => [ 10, sub {
		my ($self) = @_;
		$self->signal('pg_terminate_backend');
	} ],
	'cancel' => [ 12, sub {
		my ($self) = @_;
		$self->signal('pg_cancel_backend');
	} ],
	'stop a process for a while' => [ 8, sub {
		my ($self) = @_;
		my ($side, $which) = @{ pick([ 'source', q{application_name LIKE 'pg_rehome%'} ], [ 'target', q{backend_type LIKE 'pg_rehome%' OR application_name = 'torture call'} ]) };
		my $pid = pick($self->ask($side, "SELECT pid FROM pg_stat_activity WHERE $which ORDER BY pid")) // return;
		my $for = 0.05 + rand 1.5;
		$self->note_action(sprintf 'stop %d at the %s for %.2f s', $pid, $side, $for);
		kill 'STOP', $pid;
		sleep $for;
		kill 'CONT', $pid;
	} ],
	'stall' => [ 10, sub { $_[0]->break_network('stall') } ],
	'cut' => [ 10, sub { $_[0]->break_network('cut') } ],
	'orphan' => [ 6, sub { $_[0]->break_network('orphan') } ],
	'mute' => [ 8, sub { $_[0]->break_network('mute') } ],
	'mute, then cut' => [ 8, sub { $_[0]->break_network('mute', 'cut') } ],
	'stall, then cut' => [ 6, sub { $_[0]->break_network('stall', 'cut') } ],
	'slow' => [ 6, sub { $_[0]->break_network('slow ' . int(5 + rand 60)) } ]);

sub break
{
	my ($self) = @_;
	my $name = weighted([ map { [ $breaker{$_}[0], $_ ] } sort keys %breaker ]);
	$self->{done}{$name}++;
	$breaker{$name}[1]->($self);
	return;
}

sub break_network
{
	my ($self, @modes) = @_;
	for my $mode (@modes)
	{
		my $for = 0.05 + rand 1.45;
		$self->note_action(sprintf 'network: %s for %.2f s', $mode, $for);
		$self->{proxy}->set($mode);
		sleep $for;
	}
	$self->{proxy}->set('pass');
	return;
}

# The whole server starts anew when one of its processes is killed.
sub kill_backend
{
	my ($self, $side, $which) = @_;
	my @pids = $self->ask($side, "SELECT pid FROM pg_stat_activity WHERE $which ORDER BY pid");
	return unless @pids;
	my $pid = pick(@pids);
	$self->note_action("kill $pid at the $side, where $which");
	push @{ $self->{crashes}{$side} }, time;
	kill 'KILL', $pid;
	# until the postmaster has noticed, the server takes whoever asks whether it is back
	my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
	usleep(1_000) while kill(0, $pid) && time < $limit;
	push @{ $self->{crashes}{$side} }, time;
	return;
}

sub kill_whole
{
	my ($self, $side) = @_;
	$self->note_action("kill the $side");
	push @{ $self->{crashes}{$side} }, time;
	kill_server($self->node($side));
	push @{ $self->{crashes}{$side} }, time;
	sleep rand 0.5 if rand(2) < 1;
	$self->node($side)->start(fail_ok => 1) or die "after a SIGKILL the $side does not start\n";
	return;
}

sub signal
{
	my ($self, $function) = @_;
	my ($side, $which) = @{ pick(
		[ 'source', q{application_name LIKE 'pg_rehome%'} ],
		[ 'target', q{backend_type LIKE 'pg_rehome%'} ],
		[ 'target', q{application_name = 'torture call'} ],
		[ 'target', q{backend_type LIKE 'pg_rehome%' OR application_name = 'torture call'} ]) };
	my @pids = $self->ask($side, "SELECT pid FROM pg_stat_activity WHERE $which ORDER BY pid");
	return unless @pids;
	my $pid = pick(@pids);
	$self->note_action("$function($pid) at the $side");
	$self->ask($side, "SELECT $function($pid)");
	return;
}

# Waits for a server on its way back from a crash.
sub await_server
{
	my ($self, $side) = @_;
	wait_until($self->node($side), 'SELECT NOT pg_is_in_recovery()') or die "the $side does not come back\n";
	return;
}

=pod

mend() makes whole what was broken: network, servers, calls, pauses.

=cut

sub mend
{
	my ($self) = @_;
	$self->{proxy}->set('pass');
	$self->await_calls(0);
	$self->await_server($_) for qw(source target);
	my ($paused) = $self->ask('target', q{SELECT count(*) FROM rehome.status WHERE paused});
	$self->call_until_done(q{SELECT rehome.resume('m')}) if $paused;
	return;
}

1;
