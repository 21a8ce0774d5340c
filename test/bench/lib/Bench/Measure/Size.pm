# Bench::Measure::Size: that time grows with the rows and memory does not, and
# that neither minds how many tables or partitions there are.
package Bench::Measure::Size;

use strict;
use warnings;

use Bench::Data;
use Bench::Rehome;
use List::Util qw(sum);

# Idle rounds of the worker over which round trips are counted.
my $idle_rounds = 50;

# How many rows verify has compared; dies if it found a table that is not equal.
sub all_equal
{
	my (@tables) = @_;
	my @bad = map { $_->{target} } grep { !$_->{ok} } @tables;
	die "verify: @bad differ\n" if @bad;
	return sum map { $_->{source_rows} } @tables;
}

# Everything that a migration can be asked to do, each with its memory. Rebuilding
# an index may use maintenance_work_mem, so that is what it comes as.
sub memory
{
	my ($bench) = @_;
	my $dbname = 'bench';
	my ($source, $target) = $bench->servers;

	$target->do('postgres', q{ALTER SYSTEM SET maintenance_work_mem = '64MB'}, 'SELECT pg_reload_conf()');
	data_pgbench($bench, $source, $dbname);
	data_wide($bench, $source, $dbname);
	$target->create_database($dbname);
	rehome_prepare($bench, $dbname, $dbname);
	$bench->copy_schema($dbname, $dbname);
	rehome_define($bench, $dbname);
	# the worker may be in the middle of bringing all rows back
	$target->do($dbname, "ALTER DATABASE $dbname SET rehome.lock_retries = 1000");
	my $call = sub { my ($procedure) = @_; return sub { rehome_call($bench, $dbname, $procedure) } };
	my $verify = sub {
		my ($mode) = @_;
		return sub {
			all_equal(rehome_verify($bench, $dbname, $mode));
		};
	};
	my $change = 'UPDATE pgbench_accounts SET abalance = abalance + 1; UPDATE wide SET rate = rate + 1';
	my $check = sub { $bench->same_contents($dbname, $bench->contents($source, $dbname), $_[0]) };
	my $most = { memory => 0 };
	for my $step (
		[ 'copy', $call->('copy') ],
		[ 'sync of every row', $call->('sync'), sub { $source->do($dbname, $change) } ],
		[ 'verify by hash', $verify->('hash') ],
		[ 'verify by rows', $verify->('rows') ],
		[ 'cutover',        $call->('cutover') ],
		[ 'sync of every row, back', $call->('sync'), sub { $target->do($dbname, $change) } ],
		[ 'rollback',                $call->('rollback') ])
	{
		my ($what, $code, $before) = @$step;
		$before->() if $before;
		my $used = $bench->observe($code);
		$check->($what);
		$bench->tell(sprintf 'memory: %-24s %8.3f s, %4.0f MB, %s', $what, $used->{seconds}, $used->{memory} / 2**20, $used->{who});
		$most = { %$used, what => $what } if $used->{memory} > $most->{memory};
	}
	$bench->line_memory('memory', $most->{memory}, "$most->{what}: $most->{who}");
	return;
}

# The same table with so many rows and with ten times as many, in two databases.
sub linear
{
	my ($bench) = @_;
	my %rows = (one => $bench->scaled(1_000_000));
	$rows{ten} = 10 * $rows{one};
	my $source = $bench->source;
	for my $dbname (qw(one ten))
	{
		$source->create_database($dbname);
		data_rows($bench, $source, $dbname, 'rows', $rows{$dbname});
	}
	my $compare = sub {
		my ($name, %code) = @_;
		my $result = $bench->contend(
			name       => $name,
			contenders => [
				map {
					my $dbname = $_;
					{
						name => $dbname,
						map { my $code = $code{$_}; ($_ => sub { $code->($dbname) }) } keys %code
					}
				} qw(one ten)
			]);
		my ($one, $ten) = map { Bench::median(@{ $result->{$_}{seconds} }) } qw(one ten);
		$bench->line($name, ours => Bench::seconds_text($ten), peer => Bench::seconds_text(10 * $one),
			ratio => $ten / (10 * $one), reach => '<= 1.2', remark => "$rows{ten} rows; against ten times that of $rows{one}");
		$bench->line_memory("$name:memory", @{ $result->{ten} }{qw(memory who)});
	};
	my $check = sub {
		my ($dbname, $what) = @_;
		$bench->same_contents($dbname, $bench->contents($source, $dbname), $what);
	};
	my $define = sub {
		my ($dbname) = @_;
		$bench->target->create_database($dbname);
		rehome_prepare($bench, $dbname, $dbname);
		$bench->copy_schema($dbname, $dbname);
		rehome_define($bench, $dbname);
	};
	$compare->(
		'linear-copy',
		before => $define,
		run    => sub { rehome_call($bench, $_[0], 'copy') },
		after  => sub { $check->($_[0], 'the copy'); rehome_cancel($bench, $_[0], $_[0]) }) if $bench->wanted('linear-copy');
	if (grep { $bench->wanted($_) } qw(linear-verify change-10m))
	{
		for my $dbname (qw(one ten)) { $define->($dbname); rehome_call($bench, $dbname, 'copy') }
	}
	$compare->(
		'linear-verify',
		run => sub {
			my $n = all_equal(rehome_verify($bench, $_[0]));
			die "verify compared $n rows of $rows{ $_[0] }\n" if $n != $rows{ $_[0] };
		}) if $bench->wanted('linear-verify');
	$compare->(
		'change-10m',
		before => sub { $source->do($_[0], 'UPDATE rows SET value = value + 1', 'VACUUM rows') },
		run    => sub { rehome_call($bench, $_[0], 'sync') },
		after  => sub { $check->($_[0], 'the sync'); $bench->target->do($_[0], 'VACUUM rows') }) if $bench->wanted('change-10m');
	return;
}

# Statements that one idle round of the sync worker sends to the source; at least
# as many as round trips.
sub idle_statements
{
	my ($bench, $dbname) = @_;
	my $source = $bench->source;
	my $counted = q{
		SELECT coalesce(sum(calls), 0) AS all, coalesce(sum(calls) FILTER (WHERE query ~ 'txid_current_snapshot'), 0) AS rounds
		  FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = ?)};
	my $count;
	$source->do('postgres', 'SELECT pg_stat_statements_reset()');
	$bench->wait_for(
		"$idle_rounds idle rounds",
		sub {
			$count = $source->dbh('postgres')->selectrow_hashref($counted, undef, $dbname);
			return $count->{rounds} >= $idle_rounds;
		}, 100_000);
	return $count->{all} / $count->{rounds};
}

sub tables
{
	my ($bench) = @_;
	my $n = $bench->scaled(2000);
	my ($source, $target) = $bench->servers;
	my %tables = (one => 1, many => $n);

	$source->do('postgres', 'CREATE EXTENSION pg_stat_statements', q{ALTER SYSTEM SET pg_stat_statements.track = 'top'},
		'SELECT pg_reload_conf()');
	my (%statements, %idle);
	my ($memory, $who) = (0, '');
	my $observe = sub {
		my ($what, $code) = @_;
		my $used = $bench->observe($code);
		$bench->tell(sprintf 'tables-2000: %-24s %8.3f s, %4.0f MB, %s', $what, $used->{seconds}, $used->{memory} / 2**20, $used->{who});
		($memory, $who) = ($used->{memory}, "$what: $used->{who}") if $used->{memory} > $memory;
		return $used->{seconds};
	};
	for my $dbname (qw(one many))
	{
		data_tables($bench, $source, $dbname, $tables{$dbname}, 10);
		$target->create_database($dbname);
		rehome_prepare($bench, $dbname, $dbname);
		$bench->copy_schema($dbname, $dbname);
		my $call = sub { my ($procedure) = @_; return sub { rehome_call($bench, $dbname, $procedure) } };
		$observe->("$dbname: define", sub { rehome_define($bench, $dbname) });
		$observe->("$dbname: copy",   $call->('copy'));
		my $check = sub { $bench->same_contents($dbname, $bench->contents($source, $dbname), "$_[0] of $dbname") };
		$check->('the copy');
		$idle{$dbname} = $observe->("$dbname: idle sync", $call->('sync'));
		$source->do($dbname, 'SET synchronous_commit = off');
		for my $table ($source->column($dbname, q{SELECT oid::regclass FROM pg_class WHERE relname ~ '^table_[0-9]+$'}))
		{
			$source->do($dbname, "UPDATE $table SET value = value + 1 WHERE id = 1");
		}
		$source->do($dbname, 'RESET synchronous_commit');
		$observe->("$dbname: sync, a row each", $call->('sync'));
		$check->('the sync');
		$observe->("$dbname: verify", sub {
			my $compared = all_equal(rehome_verify($bench, $dbname));
			die "verify compared $compared rows of $tables{$dbname} tables\n" if $compared != 10 * $tables{$dbname};
		});
		$call->('start')->();
		$statements{$dbname} = idle_statements($bench, $dbname);
		$observe->("$dbname: cutover",  $call->('cutover'));
		$observe->("$dbname: rollback", $call->('rollback'));
		$observe->("$dbname: cancel",   $call->('cancel'));
		$check->('a cutover and a rollback');
	}
	$bench->line('tables-2000', ours => sprintf('%.2f', $statements{many}), peer => sprintf('%.2f', $statements{one}),
		ratio => $statements{many} / $statements{one}, reach => '<= 1.1',
		remark => "statements that an idle round of the worker sends; $n tables, against one");
	$bench->line('tables-2000:idle', ours => Bench::seconds_text($idle{many}), peer => Bench::seconds_text($idle{one}),
		ratio => $idle{many} / $idle{one}, remark => "CALL rehome.sync, a new connection included; $n tables, against one");
	$bench->line_memory('tables-2000:memory', $memory, $who);
	return;
}

# A partitioned table against a plain one with the same rows.
sub partitions
{
	my ($bench) = @_;
	my $n    = $bench->scaled(1000);
	my $rows = 300 * $n;
	my ($source, $target) = $bench->servers;
	$source->create_database($_) for qw(parts plain);
	data_rows($bench, $source, 'plain', 'rows', $rows);
	data_partitions($bench, $source, 'parts', 'rows', $rows, $n);

	my ($memory, $who) = (0, '');
	my $check = sub { $bench->same_contents($_[0], $bench->contents($source, $_[0]), $_[1]) };
	my $compare = sub {
		my ($name, %code) = @_;
		my $result = $bench->contend(
			name       => "partitions-1000, $name",
			contenders => [
				map {
					my $dbname = $_;
					{ name => $dbname, map { my $code = $code{$_}; ($_ => sub { $code->($dbname) }) } keys %code }
				} qw(parts plain)
			]);
		my ($ours, $plain) = map { Bench::median(@{ $result->{$_}{seconds} }) } qw(parts plain);
		$bench->line("partitions-1000:$name", ours => Bench::seconds_text($ours), peer => Bench::seconds_text($plain),
			ratio => $ours / $plain, remark => "$rows rows in $n partitions; against a plain table");
		($memory, $who) = ($result->{parts}{memory}, "$name: $result->{parts}{who}") if $result->{parts}{memory} > $memory;
	};
	$compare->(
		'copy',
		before => sub {
			$target->create_database($_[0]);
			rehome_prepare($bench, $_[0], $_[0]);
			$bench->copy_schema($_[0], $_[0]);
			rehome_define($bench, $_[0]);
		},
		run   => sub { rehome_call($bench, $_[0], 'copy') },
		after => sub { $check->($_[0], 'the copy'); rehome_cancel($bench, $_[0], $_[0]) });
	rehome_migrate($bench, $_, $_) for qw(parts plain);
	$compare->(
		'sync',
		before => sub { $source->do($_[0], 'UPDATE rows SET value = value + 1 WHERE id % 10 = 0') },
		run    => sub { rehome_call($bench, $_[0], 'sync') },
		after  => sub { $check->($_[0], 'the sync') });
	$compare->('idle', run => sub { rehome_call($bench, $_[0], 'sync') });
	$compare->(
		'verify',
		run => sub {
			my $compared = all_equal(rehome_verify($bench, $_[0]));
			die "verify compared $compared rows of $rows\n" if $compared != $rows;
		});
	$compare->('cutover', run => sub { rehome_call($bench, $_[0], 'cutover') }, after => sub { rehome_call($bench, $_[0], 'rollback') });
	$check->($_, 'cutover and rollback') for qw(parts plain);
	$bench->line_memory('partitions-1000:memory', $memory, $who);
	return;
}

sub measures
{
	return (
		[ \&memory,     qw(memory) ],
		[ \&linear,     qw(linear-copy linear-verify change-10m) ],
		[ \&tables,     qw(tables-2000) ],
		[ \&partitions, qw(partitions-1000) ]);
}

1;
