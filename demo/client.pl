#!/usr/bin/env perl
# demo/client.pl: the application of the demo. Clients that run pgbench's TPC-B
# transaction, each on the side that may be written: SQLSTATE 25006 (read only)
# or a lost connection sends a client to the other side, with the same
# transaction. So every transaction is either known to be committed, once, or is
# counted as unknown: its connection was lost while the COMMIT was under way.
#
#   demo/client.pl --source CONNINFO --target CONNINFO --accounts N
#                  [--clients N] [--rate TPS] --figures FILE
#
# Each second, and at the end, FILE is replaced by lines of "name value". Ends at
# SIGTERM or SIGINT, between two transactions.
use strict;
use warnings;

use DBI;
use DBD::Pg;
use Getopt::Long;
use IO::Handle;
use IO::Select;
use Time::HiRes qw(time);

my ($clients, $rate, %conninfo, $accounts, $figures) = (4, 0);
GetOptions(
	'source=s'   => \$conninfo{source},
	'target=s'   => \$conninfo{target},
	'clients=i'  => \$clients,
	'rate=f'     => \$rate,
	'accounts=i' => \$accounts,
	'figures=s'  => \$figures
) && $conninfo{source} && $conninfo{target} && $accounts && $figures
  or die "usage: see the head of $0\n";

# What one client counts. wait is the longest time, in ms, that one transaction
# took from its first attempt to its commit; switches are changes of side.
my @counters = qw(source target unknown switches retries);

my $scale = $accounts / 100_000;

my $stopping = 0;
$SIG{TERM} = $SIG{INT} = sub { $stopping = 1 };

# connect_to SIDE: the connection, or undef while nobody answers there.
sub connect_to
{
	my ($side) = @_;
	my %dsn = map { split /=/, $_, 2 } split / /, $conninfo{$side};
	my $user = delete $dsn{user};
	return DBI->connect('dbi:Pg:' . join(';', map { "$_=$dsn{$_}" } sort keys %dsn), $user, '',
		{ AutoCommit => 1, RaiseError => 1, PrintError => 0, pg_server_prepare => 1 });
}

# tpcb DBH, TRANSACTION: pgbench's builtin script, statement for statement, up to
# and without its COMMIT.
sub tpcb
{
	my ($dbh, $t) = @_;
	$dbh->begin_work;
	$dbh->prepare_cached('UPDATE pgbench_accounts SET abalance = abalance + ? WHERE aid = ?')->execute($t->{delta}, $t->{aid});
	$dbh->selectrow_array($dbh->prepare_cached('SELECT abalance FROM pgbench_accounts WHERE aid = ?'), undef, $t->{aid});
	$dbh->prepare_cached('UPDATE pgbench_tellers SET tbalance = tbalance + ? WHERE tid = ?')->execute($t->{delta}, $t->{tid});
	$dbh->prepare_cached('UPDATE pgbench_branches SET bbalance = bbalance + ? WHERE bid = ?')->execute($t->{delta}, $t->{bid});
	$dbh->prepare_cached('INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP)')
	  ->execute(@$t{qw(tid bid aid delta)});
	return;
}

# A client: runs until told to stop, and reports to its parent through the pipe,
# four times a second, what it has counted since the last report.
sub run_client
{
	my ($report, $pause) = @_;
	my %other = (source => 'target', target => 'source');
	my ($side, $dbh) = ('source');
	my %count = map { $_ => 0 } @counters;
	my ($longest, $reported, $due) = (0, time, time);

	my $tell = sub {
		syswrite $report, join(' ', @count{@counters}, int($longest * 1000 + 0.5)) . "\n";
		$count{$_} = 0 for @counters;
		($longest, $reported) = (0, time);
	};

	srand($$);
	while (!$stopping)
	{
		my $t = {
			aid   => 1 + int(rand($accounts)),
			bid   => 1 + int(rand($scale)),
			tid   => 1 + int(rand(10 * $scale)),
			delta => int(rand(10001)) - 5000
		};
		my ($began, $refused, $settled) = (time, 0, 0);
		until ($settled)
		{
			my $committing = 0;
			my $well = eval {
				$dbh //= connect_to($side);
				tpcb($dbh, $t);
				$committing = 1;
				$dbh->commit;
				1;
			};
			if ($well)
			{
				$count{$side}++;
				$settled = 1;
				next;
			}

			my $error = $@;
			my $sqlstate = ($dbh ? $dbh->state : '') || '08006';
			my $lost = !$dbh || $sqlstate =~ /^(?:08|57P)/ || !eval { $dbh->ping };
			if ($lost)
			{
				eval { $dbh->disconnect if $dbh };
				$dbh = undef;
			}
			elsif (!eval { $dbh->rollback; 1 })
			{
				$dbh = undef;
			}

			if ($committing && $lost)
			{
				$count{unknown}++;
				$settled = 1;
			}
			elsif ($lost || $sqlstate eq '25006')
			{
				eval { $dbh->disconnect if $dbh };
				($dbh, $side) = (undef, $other{$side});
				$count{switches}++;
				# Refused by both in turn: for a moment neither is the one.
				select(undef, undef, undef, 0.005) if $refused++;
			}
			elsif ($sqlstate =~ /^(?:40001|40P01|55P03)$/)
			{
				$count{retries}++;
			}
			else
			{
				die "client $$ on the $side: $sqlstate $error";
			}
			# Settled or not, nobody is to wait for a server that never comes.
			last if $stopping;
		}
		my $took = time - $began;
		$longest = $took if $took > $longest;
		$tell->() if time - $reported > 0.25;
		if ($pause)
		{
			$due += $pause;
			my $early = $due - time;
			if   ($early > 0) { select(undef, undef, undef, $early) }
			else              { $due = time }
		}
	}
	$tell->();
	$dbh->disconnect if $dbh;
	return;
}

my (%total, @pids);
my $select = IO::Select->new;
for (1 .. $clients)
{
	pipe(my $read, my $write) or die "no pipe: $!";
	my $pid = fork // die "no fork: $!";
	if (!$pid)
	{
		close $read;
		run_client($write, $rate ? $clients / $rate : 0);
		exit 0;
	}
	close $write;
	push @pids, $pid;
	$select->add($read);
}

$total{$_} = 0 for @counters, 'longest_wait_ms';
my ($began, $seconds, $before) = (time, 0, 0);
my %partial;

# The figures so far; replaced at once, so that a reader never sees half of them.
sub write_figures
{
	my ($state, $tps) = @_;
	open my $fh, '>', "$figures.new" or die "cannot write $figures.new: $!";
	print $fh "$_ $total{$_}\n" for @counters, 'longest_wait_ms';
	printf $fh "committed %d\ntps %.0f\nseconds %.1f\nstate %s\n", $total{source} + $total{target}, $tps, time - $began, $state;
	close $fh or die "cannot write $figures.new: $!";
	rename "$figures.new", $figures or die "cannot rename $figures.new: $!";
	return;
}

my $told = 0;
while ($select->count)
{
	if ($stopping && !$told++)
	{
		kill 'TERM', @pids;
	}
	for my $read ($select->can_read(0.2))
	{
		my $got = sysread $read, my $chunk, 65536;
		if (!$got)
		{
			$select->remove($read);
			next;
		}
		$partial{$read} .= $chunk;
		while ($partial{$read} =~ s/^(.*)\n//)
		{
			my @value = split / /, $1;
			my $longest = pop @value;
			$total{$_} += shift @value for @counters;
			$total{longest_wait_ms} = $longest if $longest > $total{longest_wait_ms};
		}
	}
	my $now = int(time - $began);
	if ($now > $seconds)
	{
		my $committed = $total{source} + $total{target};
		my $tps = ($committed - $before) / ($now - $seconds);
		printf "%3d s  %6.0f tps  committed on the source %d, on the target %d\n", $now, $tps, @total{qw(source target)};
		STDOUT->flush;
		write_figures('running', $tps);
		($seconds, $before) = ($now, $committed);
	}
}

my $died = 0;
for my $pid (@pids)
{
	waitpid $pid, 0;
	$died++ if $?;
}
write_figures('ended', ($total{source} + $total{target}) / (time - $began));
die "$died of $clients clients died\n" if $died;
