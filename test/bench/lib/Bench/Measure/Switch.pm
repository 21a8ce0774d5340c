# Bench::Measure::Switch: how long writers wait for a cutover, and for a rollback.
#
# pgbench runs with 4 clients on the side that has authority. Its clients end when
# they are sent away, so there is a fresh pgbench on the other side after each
# switch. One client more goes where it is sent, and notes each of its commits:
# the longest gap between two of them is what a client sees.
package Bench::Measure::Switch;

use strict;
use warnings;

use Bench::Data;
use Bench::Rehome;
use IPC::Run;
use List::Util qw(max);
use Time::HiRes qw(time usleep);

my $dbname  = 'bench';
my $clients = 4;

# How often cutover and rollback may be refused because locks could not be had.
my $attempts = 5;

sub start_load
{
	my ($bench, $side) = @_;
	my $load = { server => $bench->{$side}, out => '', err => '' };
	my $history = $load->{server}->value($dbname, 'SELECT last_value FROM pgbench_history_id_seq');
	$load->{run} = IPC::Run::start(
		[ $bench->program('pgbench'), '-n', '-j', 1, '-c', $clients, '-T', $bench->{timeout}, $load->{server}->conninfo($dbname) ],
		'<', \undef, '>', \$load->{out}, '2>', \$load->{err});
	# until all of them are at work, and have been for a while
	$bench->wait_for(
		"pgbench on the $side",
		sub {
			$load->{run}->pump_nb;
			die "pgbench ended: $load->{err}\n" unless $load->{run}->pumpable;
			return $load->{server}->value($dbname, 'SELECT last_value FROM pgbench_history_id_seq') > $history + 2000;
		});
	return $load;
}

# After a switch every client has been sent away, by the error that is meant for it.
sub end_load
{
	my ($bench, $load) = @_;
	$bench->wait_for('the clients to be sent away', sub { $load->{run}->pump_nb; !$load->{run}->pumpable });
	$load->{run}->finish;
	my @ends = $load->{err} =~ /^pgbench: error: client \d+ .*?aborted in command .*$/mg;
	my @sent = grep { /cannot be written here/ } @ends;
	die "of $clients clients " . @sent . " were sent away:\n$load->{err}\n" if @sent != $clients || @ends != $clients;
	return;
}

# The client that goes where it is sent; its commits, as times, when it is told to
# end by closing the pipe.
sub start_probe
{
	my ($bench) = @_;
	pipe my $stopped, my $stop or die "cannot make a pipe: $!\n";
	my $pid = open(my $report, '-|') // die "cannot fork: $!\n";
	if (!$pid)
	{
		close $stop;
		my $failed = !eval { run_probe($bench, $stopped); 1 };
		print STDERR $@ if $failed;
		close STDOUT;
		POSIX::_exit($failed);
	}
	close $stopped;
	return { report => $report, stop => $stop };
}

sub run_probe
{
	my ($bench, $stopped) = @_;
	my %other = (source => 'target', target => 'source');
	my %dbh = map { $_->name => $_->connect($dbname) } $bench->servers;
	my %insert = map { $_ => $dbh{$_}->prepare('INSERT INTO marker VALUES (?)') } keys %dbh;
	my ($side, $id, $set, @commits) = ('source', 0, '');
	vec($set, fileno $stopped, 1) = 1;
	until (select my $ready = $set, undef, undef, 0.002)
	{
		$id++;
		until (eval { $insert{$side}->execute($id); 1 })
		{
			die "the probe failed: $@" if $dbh{$side}->state ne '25006';
			$side = $other{$side};
			# for a moment, neither side takes it
			usleep(1_000);
		}
		push @commits, time;
	}
	printf "%.6f\n", $_ for @commits;
	return;
}

sub stop_probe
{
	my ($probe) = @_;
	close $probe->{stop};
	my @commits = readline $probe->{report};
	close $probe->{report} or die "the probe failed\n";
	chomp @commits;
	return @commits;
}

# Calls cutover or rollback; [began, ended, attempts].
sub switch
{
	my ($bench, $procedure) = @_;
	for my $attempt (1 .. $attempts)
	{
		my $began = time;
		return [ $began, time, $attempt ] if eval { rehome_call($bench, $dbname, $procedure); 1 };
		my $error = $@;
		die "$procedure: $error" if $error !~ /^RH00[45]:/ || $attempt == $attempts;
		$bench->tell("$procedure was refused: $error");
	}
	return;
}

# The longest time between two commits, in milliseconds, of those gaps that
# overlap the call.
sub longest_gap
{
	my ($call, @commits) = @_;
	my ($began, $ended) = @$call;
	my @gaps = map { $commits[$_] - $commits[ $_ - 1 ] }
	  grep { $commits[$_] >= $began && $commits[ $_ - 1 ] <= $ended } 1 .. $#commits;
	die "the probe committed nothing after a switch\n" if !@gaps || $commits[-1] <= $ended;
	return 1000 * max @gaps;
}

sub freeze
{
	my ($bench) = @_;
	my ($source, $target) = $bench->servers;
	my %call = (cutover => [], rollback => []);

	data_pgbench($bench, $source, $dbname);
	$source->do($dbname, 'CREATE TABLE marker (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())');
	$target->create_database($dbname);
	rehome_prepare($bench, $dbname, $dbname);
	$bench->copy_schema($dbname, $dbname);
	rehome_define($bench, $dbname);
	rehome_call($bench, $dbname, 'start');
	$bench->wait_for('the copy', sub { $target->value($dbname, 'SELECT state FROM rehome.status') eq 'syncing' });

	my $probe = start_probe($bench);
	my $load  = start_load($bench, 'source');
	for (1 .. 2 * $bench->rounds)
	{
		for my $switch ([ 'cutover', 'target' ], [ 'rollback', 'source' ])
		{
			my ($procedure, $side) = @$switch;
			push @{ $call{$procedure} }, switch($bench, $procedure);
			end_load($bench, $load);
			$load = start_load($bench, $side);
		}
	}
	my @commits = stop_probe($probe);
	$load->{run}->signal('INT');
	$bench->wait_for('pgbench to end', sub { $load->{run}->pump_nb; !$load->{run}->pumpable });
	$load->{run}->finish;
	rehome_call($bench, $dbname, 'sync');
	$bench->same_contents($dbname, $bench->contents($source, $dbname), 'the switches');
	die "rows that the probe saw committed are lost\n"
	  if $source->value($dbname, 'SELECT count(*) FROM marker') != @commits;

	for my $procedure (grep { $bench->wanted("freeze-$_") } qw(cutover rollback))
	{
		my @stored = $target->column($dbname, q{
			SELECT extract(epoch FROM (detail->>'freeze')::interval) * 1000 FROM rehome.event WHERE kind = ? ORDER BY id}, $procedure);
		my @calls = @{ $call{$procedure} };
		die @stored . " events of $procedure, and not " . @calls . "\n" if @stored != @calls;
		my @seen = map { longest_gap($_, @commits) } @calls;
		$bench->tell(sprintf '%s: freeze %.0f ms, longest gap seen %.0f ms, %d attempts', $procedure, $stored[$_], $seen[$_], $calls[$_][2])
		  for 0 .. $#calls;
		for my $way ([ '', 'from lock to commit', @stored ], [ ':seen', 'longest gap between two commits of a client', @seen ])
		{
			my ($suffix, $remark, @values) = @$way;
			my $line = sub {
				my ($what, $value, $reach) = @_;
				$bench->line("freeze-$procedure-$what$suffix", ours => Bench::ms_text($value), value => $value,
					reach => $reach, remark => "$remark; $clients clients, " . @calls . ' times');
			};
			$line->('p50', Bench::percentile(50, @values), '<= 100 ms');
			$line->('max', max(@values), '<= 500 ms');
		}
	}
	return;
}

sub measures { return [ \&freeze, qw(freeze-cutover freeze-rollback) ] }

1;
