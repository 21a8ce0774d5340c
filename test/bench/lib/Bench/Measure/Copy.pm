# Bench::Measure::Copy: from an empty database to one that has everything: the
# schema, the rows, the indexes, the constraints, the planner's statistics.
package Bench::Measure::Copy;

use strict;
use warnings;

use Bench::Data;
use Bench::Peer;
use Bench::Rehome;
use Time::HiRes qw(time);

my $from = 'bench';
my $to   = 'bench';

# The contenders: each begins with an empty database in which it finds what it
# would have installed beforehand.
sub contenders
{
	my ($bench) = @_;
	my %contender = (
		ours => {
			before => sub { rehome_prepare($bench, $from, $to) },
			run    => sub {
				$bench->copy_schema($from, $to);
				rehome_define($bench, $to);
				rehome_call($bench, $to, 'copy');
			},
			after => sub { rehome_cancel($bench, $from, $to) },
		},
		pgcopydb => { run => sub { pgcopydb_clone($bench, $from, $to) } },
		logical  => {
			run => sub {
				$bench->copy_schema($from, $to);
				logical_start($bench, $from, $to);
				$bench->wait_for('the initial sync', sub { logical_is_copied($bench, $to) });
				$bench->target->do($to, 'ANALYZE');
			},
			# The publication is not what is to be compared.
			after => sub { logical_stop($bench, $from, $to) },
		},
		fdw => {
			before => sub { fdw_prepare($bench, $from, $to) },
			run    => sub { fdw_copy($bench, $from, $to) },
		},
		floor => { run => sub { $bench->{floor} = floor_copy($bench, $from, $to) } },
	);
	return %contender;
}

# Runs ours and the others on what the source has; the result of contend.
sub race
{
	my ($bench, $name, @others) = @_;
	my %contender = contenders($bench);
	my $expected  = $bench->contents($bench->source, $from);
	my @floor;
	my $result = $bench->contend(
		name       => $name,
		contenders => [
			map {
				my ($who, $its) = ($_, $contender{$_});
				{
					name   => $who,
					before => sub {
						$bench->target->create_database($to);
						$its->{before}->() if $its->{before};
					},
					run   => $its->{run},
					after => sub {
						$bench->same_contents($to, $expected, "the copy by $who");
						$its->{after}->() if $its->{after};
						push @floor, $bench->{floor} if $who eq 'floor';
						$bench->target->drop_database($to);
					}
				}
			} 'ours', @others
		]);
	# Not how long it took here, but spread over the jobs.
	$result->{floor}{seconds} = \@floor if @floor;
	return $result;
}

my %peer = (
	'copy-vs-pgcopydb' => 'pgcopydb',
	'copy-vs-logical'  => 'logical',
	'copy-vs-fdw'      => 'fdw',
	'copy-floor'       => 'floor');

sub copy
{
	my ($bench) = @_;
	data_pgbench($bench, $bench->source, $from);
	data_wide($bench, $bench->source, $from);
	my @names  = grep { $bench->wanted($_) } qw(copy-vs-pgcopydb copy-vs-logical copy-vs-fdw copy-floor);
	my $result = race($bench, 'copy', map { $peer{$_} } @names);
	my $bytes  = $bench->source->table_bytes($from);
	my %reach  = (
		'copy-vs-pgcopydb' => [ '>= 1.4', 'pgcopydb vacuums too' ],
		'copy-vs-logical'  => ['>= 1.7'],
		'copy-vs-fdw'      => ['>= 2.5'],
		'copy-floor'       => [ undef, 'one core at a time, divided by ' . $bench->jobs ]);
	for my $name (@names)
	{
		$bench->line_times($name, $result, $peer{$name}, @{ $reach{$name} });
		$bench->lines_used($name, $result, $peer{$name}, $bytes) if $name ne 'copy-floor';
	}
	$bench->line_memory('copy:memory', @{ $result->{ours} }{qw(memory who)});
	return;
}

sub tables
{
	my ($bench) = @_;
	my $n = $bench->scaled(2000);
	data_tables($bench, $bench->source, $from, $n, 1000);
	my $name   = 'copy-2000-tables';
	my $result = race($bench, $name, 'pgcopydb');
	$bench->line_times($name, $result, 'pgcopydb', '>= 2', "$n tables of 1000 rows");
	$bench->lines_used($name, $result, 'pgcopydb', $bench->source->table_bytes($from));
	$bench->line_memory("$name:memory", @{ $result->{ours} }{qw(memory who)});
	return;
}

sub measures
{
	return (
		[ \&copy,   qw(copy-vs-pgcopydb copy-vs-logical copy-vs-fdw copy-floor) ],
		[ \&tables, qw(copy-2000-tables) ]);
}

1;
