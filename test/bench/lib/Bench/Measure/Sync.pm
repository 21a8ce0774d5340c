# Bench::Measure::Sync: following a source that is written: how fast a backlog is
# drained, what capture costs the source, how far behind the target is.
#
# Two databases with the same rows stand side by side, so that neither contender
# pays for what the other has installed: 'ours' and 'peer'.
package Bench::Measure::Sync;

use strict;
use warnings;

use Bench::Data;
use Bench::Peer;
use Bench::Rehome;
use IPC::Run;
use List::Util qw(max);
use Time::HiRes qw(time usleep);

my $clients = 4;

# A table whose newest row tells how far the other side has come.
my $marker = 'CREATE TABLE marker (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())';

sub fill
{
	my ($bench, @databases) = @_;
	for my $dbname (@databases)
	{
		data_pgbench($bench, $bench->source, $dbname);
		$bench->source->do($dbname, $marker);
	}
	return;
}

# The transactions of a backlog, and the marker after them. How they come about is
# not measured, so they need not wait for the disk; the CHECKPOINT before a round
# does.
sub write_backlog
{
	my ($bench, $dbname, $transactions, $id) = @_;
	local $ENV{PGOPTIONS} = '-c synchronous_commit=off';
	run_pgbench($bench, $bench->source, $dbname, '-c', $clients, '-t', int($transactions / $clients));
	$bench->source->do($dbname, "INSERT INTO marker VALUES ($id)");
	return;
}

sub has_marker
{
	my ($bench, $dbname, $id) = @_;
	return $bench->target->value($dbname, 'SELECT EXISTS (SELECT FROM marker WHERE id = ?)', $id);
}

# Until the last of the backlog is here; both with the settings they come with.
# ours: one CALL of sync, which catches up to a snapshot taken after the call, and
# then prunes, which the line drain:call includes. peer: a subscription, disabled
# while the backlog is written, then enabled.
sub drain
{
	my ($bench) = @_;
	my $transactions = $bench->scaled(160_000);
	my ($source, $target) = $bench->servers;
	my %id = (ours => 0, peer => 0);

	fill($bench, qw(ours peer));
	rehome_migrate($bench, 'ours', 'ours');
	$target->create_database('peer');
	$bench->copy_schema('peer', 'peer');
	logical_start($bench, 'peer', 'peer');
	$bench->wait_for('the initial sync', sub { logical_is_copied($bench, 'peer') });
	$bench->target->do($_, 'ANALYZE') for qw(ours peer);

	my $has_slot_in_use = sub { $source->value('peer', q{SELECT bool_or(active) FROM pg_replication_slots}) };
	my $arrives = sub {
		my ($dbname) = @_;
		$bench->wait_for("the backlog of $dbname", sub { has_marker($bench, $dbname, $id{$dbname}) });
	};
	my ($call, $called, @calls);
	my $check = sub {
		my ($dbname) = @_;
		$bench->same_contents($dbname, $bench->contents($source, $dbname), "the drain of $dbname");
	};
	my $result = $bench->contend(
		name       => 'drain',
		contenders => [
			{
				name   => 'ours',
				before => sub {
					write_backlog($bench, 'ours', $transactions, ++$id{ours});
					# The other's backlog shall not begin with ours: it reads past it here.
					$source->do('peer', 'INSERT INTO marker VALUES (' . ++$id{peer} . ')');
					$arrives->('peer');
					$target->do('peer', 'ALTER SUBSCRIPTION bench DISABLE');
					$bench->wait_for('the slot to be let go', sub { !$has_slot_in_use->() });
				},
				run => sub {
					$called = time;
					$call   = rehome_call_begin($bench, 'ours', 'sync');
					$arrives->('ours');
				},
				after => sub {
					rehome_call_end($call);
					push @calls, time - $called;
					$check->('ours');
				},
			},
			{
				name   => 'peer',
				before => sub { write_backlog($bench, 'peer', $transactions, ++$id{peer}) },
				run    => sub {
					$target->do('peer', 'ALTER SUBSCRIPTION bench ENABLE');
					$arrives->('peer');
				},
				after => sub { $check->('peer') },
			}
		]);
	$bench->line_times('drain', $result, 'peer', '>= 4',
		"$transactions transactions of pgbench, " . 4 * $transactions . ' changes; against a subscription');
	$bench->line('drain:call', ours => Bench::seconds_text(Bench::median(@calls)), remark => 'the whole CALL, with pruning');
	my ($ours, $peer) = map { Bench::median(@{ $result->{$_}{cpu} }) } qw(ours peer);
	$bench->line('drain:cpu', ours => Bench::seconds_text($ours), peer => Bench::seconds_text($peer),
		ratio => $peer / $ours, remark => 'both servers, until then');
	$bench->line_memory('drain:memory', @{ $result->{ours} }{qw(memory who)});
	return;
}

# The triggers that capture and fence have, of functions that do nothing: what
# any trigger in PL/pgSQL costs.
sub empty_triggers
{
	my ($source, $dbname) = @_;
	my %key = (pgbench_accounts => 'aid', pgbench_tellers => 'tid', pgbench_branches => 'bid', pgbench_history => 'id');

	$source->do($dbname, 'CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$');
	for my $table (sort keys %key)
	{
		my $run = 'EXECUTE FUNCTION nothing()';
		$source->do($dbname,
			"CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON $table FOR EACH STATEMENT $run",
			"CREATE TRIGGER inserted AFTER INSERT ON $table REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT $run",
			"CREATE TRIGGER updated AFTER UPDATE ON $table REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT $run",
			"CREATE TRIGGER moved AFTER UPDATE ON $table FOR EACH ROW WHEN (OLD.$key{$table} IS DISTINCT FROM NEW.$key{$table}) $run");
	}
	return;
}

# Capture is on in 'ours' and nobody reads it meanwhile; 'peer' is the same
# database without.
sub capture
{
	my ($bench) = @_;
	my $source = $bench->source;

	fill($bench, qw(ours peer));
	if ($bench->wanted('capture-tps'))
	{
		fill($bench, 'empty');
		empty_triggers($source, 'empty');
		$source->do('empty', 'VACUUM ANALYZE');
	}
	rehome_migrate($bench, 'ours', 'ours');
	$source->do($_, 'VACUUM ANALYZE') for qw(ours peer);
	my $check = sub {
		rehome_call($bench, 'ours', 'sync');
		$bench->same_contents('ours', $bench->contents($source, 'ours'), 'the load');
		$source->do($_, 'VACUUM') for qw(ours peer);
	};
	capture_tps($bench, $check)  if $bench->wanted('capture-tps');
	capture_bulk($bench, $check) if $bench->wanted('capture-bulk');
	return;
}

sub capture_tps
{
	my ($bench, $check) = @_;
	my %tps;
	my $contender = sub {
		my ($name, $after) = @_;
		return {
			name => $name,
			run  => sub {
				my ($tps) = run_pgbench($bench, $bench->source, $name, '-c', $clients, '-T', $bench->seconds);
				push @{ $tps{$name} }, $tps;
				$bench->tell(sprintf '%s: %.0f TPS', $name, $tps);
			},
			after => $after
		};
	};
	$bench->contend(name => 'capture-tps', contenders => [ $contender->('ours', $check), $contender->('peer'), $contender->('empty') ]);
	my ($with, $without, $empty) = map { Bench::median(@{ $tps{$_} }) } qw(ours peer empty);
	$bench->line('capture-tps', ours => sprintf('%.0f TPS', $with), peer => sprintf('%.0f TPS', $without),
		ratio => $with / $without, reach => '>= 0.95', remark => "$clients clients; with and without capture");
	$bench->line('capture-tps:floor', ours => sprintf('%.0f TPS', $empty), peer => sprintf('%.0f TPS', $without),
		ratio => $empty / $without, remark => 'with the same triggers, of functions that do nothing; and without');
	return;
}

sub capture_bulk
{
	my ($bench, $check) = @_;
	my $rows = $bench->scaled(300_000);
	my $contender = sub {
		my ($name, $after) = @_;
		return {
			name  => $name,
			run   => sub { $bench->source->do($name, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= $rows") },
			after => $after
		};
	};
	my $result = $bench->contend(name => 'capture-bulk', contenders => [ $contender->('ours', $check), $contender->('peer') ]);
	my ($with, $without) = map { Bench::median(@{ $result->{$_}{seconds} }) } qw(ours peer);
	$bench->line('capture-bulk', ours => Bench::seconds_text($with), peer => Bench::seconds_text($without),
		ratio => $with / $without, reach => '<= 1.5', remark => "UPDATE of $rows rows; with and without capture");
	return;
}

# pgbench at half of what it reaches with capture and the worker at work; meanwhile
# fifty times a second what rehome.status says, and how old the newest row is that
# the source had written and the target shows.
sub staleness
{
	my ($bench) = @_;
	my ($source, $target) = $bench->servers;

	fill($bench, 'ours');
	$target->create_database('ours');
	rehome_prepare($bench, 'ours', 'ours');
	$bench->copy_schema('ours', 'ours');
	rehome_define($bench, 'ours');
	rehome_call($bench, 'ours', 'start');
	my $syncing = sub {
		my ($state, $error) = $target->dbh('ours')->selectrow_array('SELECT state, error FROM rehome.status');
		die "the worker failed: $error\n" if defined $error;
		return $state eq 'syncing';
	};
	$bench->wait_for('the copy', $syncing);
	my ($most) = run_pgbench($bench, $source, 'ours', '-c', $clients, '-T', $bench->seconds);
	my $rate = $most / 2;
	$bench->tell(sprintf 'staleness: at most %.0f TPS, so at a rate of %.0f', $most, $rate);
	# the load that found the maximum may have left a backlog
	rehome_call($bench, 'ours', 'sync');

	my (@said, @seen);
	my $id = 0;
	my @command = ($bench->program('pgbench'), '-n', '-j', 1, '-c', $clients, '-R', $rate,
		'-T', $bench->seconds, $source->conninfo('ours'));
	my ($out, $err) = ('', '');
	my $load = IPC::Run::start(\@command, '<', \undef, '>', \$out, '2>', \$err);
	my $insert = $source->dbh('ours')->prepare('INSERT INTO marker VALUES (?)');
	my $said   = $target->dbh('ours')->prepare('SELECT extract(epoch FROM staleness) FROM rehome.status');
	my $newest = $target->dbh('ours')->prepare(
		'SELECT extract(epoch FROM clock_timestamp() - at) FROM marker ORDER BY id DESC LIMIT 1');
	while ($load->pumpable)
	{
		$insert->execute(++$id);
		push @said, $target->dbh('ours')->selectrow_array($said);
		my ($age) = $target->dbh('ours')->selectrow_array($newest);
		push @seen, $age if defined $age;
		$load->pump_nb;
		usleep(20_000);
	}
	$load->finish or die "pgbench failed: $err\n";
	my ($tps) = $out =~ /^tps = ([\d.]+)/m or die "pgbench gave no TPS:\n$out";
	rehome_call($bench, 'ours', 'sync');
	$bench->same_contents('ours', $bench->contents($source, 'ours'), 'the load');

	for my $way ([ 'staleness', '', @said ], [ 'staleness', ':seen', @seen ])
	{
		my ($name, $suffix, @values) = @$way;
		my $remark = sprintf '%s, %d samples at %.0f TPS',
		  $suffix ? 'age of the newest row at the target' : 'as rehome.status says', scalar @values, $tps;
		for my $of ([ 50, '<= 250 ms' ], [ 99, '<= 1000 ms' ])
		{
			my $value = 1000 * Bench::percentile($of->[0], @values);
			$bench->line("$name-p$of->[0]$suffix", ours => Bench::ms_text($value), value => $value,
				reach => $of->[1], remark => $remark);
		}
	}
	return;
}

sub measures
{
	return (
		[ \&drain,     qw(drain) ],
		[ \&capture,   qw(capture-tps capture-bulk) ],
		[ \&staleness, qw(staleness) ]);
}

1;
