# Bench: what all measures share: the two servers, rounds, comparing contents,
# figures, and the line that is the result.
#
# Progress goes to the standard output as lines that begin with '#'; the result
# lines go there too and, once more, to the file that test/bench/run asked for.
package Bench;

use strict;
use warnings;

use IPC::Run;
use List::Util qw(max sum sum0);
use Time::HiRes qw(time usleep);

use Bench::Server;

# new(source => directory, target => directory, tmp => directory, bindir => ...,
#     results => file, rounds => n, scale => n, seconds => n, jobs => n, only => [names])
sub new
{
	my ($class, %option) = @_;
	my $self = bless {%option}, $class;
	$self->{$_} = Bench::Server->new($_, $option{$_}) for qw(source target);
	$self->{short} = 0;
	return $self;
}

sub source  { return $_[0]{source} }
sub target  { return $_[0]{target} }
sub servers { return @{ $_[0] }{qw(source target)} }
sub rounds  { return $_[0]{rounds} }
sub scale   { return $_[0]{scale} }
sub seconds { return $_[0]{seconds} }
sub jobs    { return $_[0]{jobs} }
sub tmp     { return $_[0]{tmp} }
sub short   { return $_[0]{short} }

# What there are n of at scale 30, at the scale of this run.
sub scaled
{
	my ($self, $n) = @_;
	return max(1, int($n * $self->{scale} / 30 + 0.5));
}

sub wanted
{
	my ($self, $name) = @_;
	return scalar grep { $_ eq $name } @{ $self->{only} };
}

sub tell
{
	my ($self, $text) = @_;
	printf "# %s\n", $text =~ s/\n(?=.)/\n# /gr;
	return;
}

# Runs a program; dies, with all it said, if it fails. Returns its output.
sub run
{
	my ($self, @command) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err)
	  or die "failed: @command\n$out$err";
	return wantarray ? ($out, $err) : $out;
}

# One program's output into another.
sub run_into
{
	my ($self, $from, $to) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run($from, '<', \undef, '2>', \$err, '|', $to, '>', \$out, '2>', \$err)
	  or die "failed: @$from | @$to\n$out$err";
	return;
}

sub program
{
	my ($self, $name) = @_;
	return "$self->{bindir}/$name";
}

sub psql
{
	my ($self, $server, $dbname, @more) = @_;
	return ($self->program('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $server->conninfo($dbname), @more);
}

# The schema of a database of the source, into one of the target.
sub copy_schema
{
	my ($self, $from, $to, @options) = @_;
	$self->run_into([ $self->program('pg_dump'), '--schema-only', '-d', $self->source->conninfo($from), @options ],
		[ $self->psql($self->target, $to) ]);
	return;
}

# Waits until the code gives true. What changes is in another process, so there
# is nothing to wait on.
sub wait_for
{
	my ($self, $what, $code, $pause) = @_;
	my $limit = time + $self->{timeout};
	while (!$code->())
	{
		die "waited $self->{timeout} s in vain for $what\n" if time > $limit;
		usleep($pause // 10_000);
	}
	return;
}

# Brings both servers to rest: nothing dirty is left to be written by the next.
sub settle
{
	my ($self) = @_;
	$_->do('postgres', 'CHECKPOINT') for $self->servers;
	return;
}

# Runs the contenders one after the other, in each round; a contender is
#
#   {name => ..., before => code, run => code, after => code}
#
# of which only run is measured. Returns {name => {seconds => [...], cpu => [...],
# memory => bytes, who => title}}: of each round the time and the CPU seconds of
# both servers; over all rounds the most private memory of any session or worker.
sub contend
{
	my ($self, %option) = @_;
	my %result;
	for my $round (1 .. $option{rounds} // $self->rounds)
	{
		for my $contender (@{ $option{contenders} })
		{
			my $name = $contender->{name};
			my $its = $result{$name} //= { memory => 0, who => '' };
			$contender->{before}->() if $contender->{before};
			$self->settle;
			my $measured = $self->observe($contender->{run});
			push @{ $its->{$_} }, $measured->{$_} for qw(seconds cpu);
			@$its{qw(memory who)} = @$measured{qw(memory who)} if $measured->{memory} > $its->{memory};
			$self->tell(sprintf '%s, round %d: %-12s %8.3f s, CPU of both servers %7.2f s, memory %4.0f MB',
				$option{name}, $round, $name, $measured->{seconds}, $measured->{cpu}, $measured->{memory} / 2**20);
			$contender->{after}->() if $contender->{after};
		}
	}
	return \%result;
}

# Runs the code; {seconds, cpu, memory, who} as above.
sub observe
{
	my ($self, $code) = @_;
	my $sampler = $self->_start_sampler;
	my $cpu     = sum map { $_->cpu } $self->servers;
	my $began   = time;
	$code->();
	my $seconds = time - $began;
	$cpu = sum(map { $_->cpu } $self->servers) - $cpu;
	return { seconds => $seconds, cpu => $cpu, %{ _stop_sampler($sampler) } };
}

# A process that looks ten times a second how much private memory each session
# and worker has, beyond what a session has that did nothing yet; it ends when
# the pipe that it is told by is closed.
sub _start_sampler
{
	my ($self) = @_;
	my %idle = map { $_->name => $_->idle_memory('postgres') } $self->servers;
	pipe my $stopped, my $stop or die "cannot make a pipe: $!\n";
	my $pid = open(my $report, '-|') // die "cannot fork: $!\n";
	if (!$pid)
	{
		close $stop;
		my ($most, $who, $set) = (0, '', '');
		vec($set, fileno $stopped, 1) = 1;
		do
		{
			for my $server ($self->servers)
			{
				for my $process (values %{ $server->memory })
				{
					my $above = $process->[0] - $idle{ $server->name };
					($most, $who) = ($above, $process->[1]) if $above > $most;
				}
			}
		} until select my $ready = $set, undef, undef, 0.1;
		print "$most $who\n";
		close STDOUT;
		POSIX::_exit(0);
	}
	close $stopped;
	return { report => $report, stop => $stop };
}

sub _stop_sampler
{
	my ($sampler) = @_;
	close $sampler->{stop};
	my $line = readline $sampler->{report};
	close $sampler->{report} or die "the process that watches memory failed\n";
	my ($most, $who) = $line =~ /^(\d+) (.*)/ or die "the process that watches memory said nothing\n";
	return { memory => $most, who => $who };
}

# What is in a database: {'rows of <table>' => 'count hash', 'index ...' => ...}.
# Schemas of ours, and foreign tables, are left out.
sub contents
{
	my ($self, $server, $dbname) = @_;
	my $ours = q{n.nspname !~ '^(pg_|rehome|information_schema|remote)'};
	my %contents;
	for my $table ($server->column($dbname, qq{
		SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND $ours}))
	{
		$contents{"rows of $table"} = $server->value($dbname,
			"SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM $table AS t");
	}
	my @objects = (
		qq{SELECT 'index ' || format('%I.%I', n.nspname, c.relname), concat_ws(' ', pg_get_indexdef(c.oid), i.indisvalid, i.indisready)
		     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE $ours},
		qq{SELECT 'constraint ' || format('%I of %I.%I', k.conname, n.nspname, c.relname), concat_ws(' ', pg_get_constraintdef(k.oid), k.convalidated)
		     FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE $ours});
	for my $query (@objects)
	{
		$contents{ $_->[0] } = $_->[1] for @{ $server->dbh($dbname)->selectall_arrayref($query) };
	}
	die "there is nothing in database $dbname of the " . $server->name . "\n" unless %contents;
	return \%contents;
}

# Dies unless the target's database has these contents, and no others.
sub same_contents
{
	my ($self, $dbname, $expected, $who) = @_;
	my $found = $self->contents($self->target, $dbname);
	my %all = (%$expected, %$found);
	my @bad = map { sprintf "  %s: %s at the source, %s at the target\n", $_, $expected->{$_} // 'none', $found->{$_} // 'none' }
	  grep { ($expected->{$_} // '') ne ($found->{$_} // '') } sort keys %all;
	splice @bad, 20, @bad - 20, sprintf("  and %d more\n", @bad - 20) if @bad > 20;
	die "after $who the two sides differ:\n", @bad if @bad;
	return;
}

sub percentile
{
	my ($of, @values) = @_;
	@values = sort { $a <=> $b } @values;
	die "no values\n" unless @values;
	# the smallest value that as many as that are not above
	return $values[ max(0, POSIX::ceil(@values * $of / 100) - 1) ];
}

sub median
{
	my @values = sort { $a <=> $b } @_;
	die "no values\n" unless @values;
	return ($values[ $#values / 2 ] + $values[ @values / 2 ]) / 2;
}

# The comparison that a reach such as '>= 1.4' or '<= 256' states.
sub reached
{
	my ($value, $reach) = @_;
	return $value >= $1 if $reach =~ /^>= ([\d.]+)/;
	return $value <= $1 if $reach =~ /^<= ([\d.]+)/;
	die "no reach: $reach\n";
}

my $format = "%-24s | %12s | %12s | %6s | %10s | %-5s | %s\n";

sub header
{
	return sprintf $format, qw(measure ours peer ratio reach), '', 'remark';
}

# The result: line(name, ours => text, peer => text, ratio => number, reach => text,
# value => what the reach is about (the ratio), remark => text). Without a reach
# it is for information.
sub line
{
	my ($self, $name, %its) = @_;
	my $value   = $its{value} // $its{ratio};
	my $verdict = !defined $its{reach} ? 'info' : reached($value, $its{reach}) ? 'ok' : 'short';
	$self->{short}++ if $verdict eq 'short';
	my $line = sprintf $format, $name, $its{ours}, $its{peer} // '-',
	  defined $its{ratio} ? sprintf('%.2f', $its{ratio}) : '-', $its{reach} // '-', $verdict, $its{remark} // '';
	print $line;
	open my $fh, '>>', $self->{results} or die "cannot write $self->{results}: $!\n";
	print $fh $line;
	close $fh or die "cannot write $self->{results}: $!\n";
	return;
}

# line_times(name, result of contend, peer, reach, remark): how many times faster
# ours is, by the medians.
sub line_times
{
	my ($self, $name, $result, $peer, $reach, $remark) = @_;
	my ($ours, $its) = map { median(@{ $result->{$_}{seconds} }) } 'ours', $peer;
	$self->line($name, ours => seconds_text($ours), peer => seconds_text($its), ratio => $its / $ours,
		reach => $reach, remark => $remark);
	return;
}

# The CPU time of both servers, in seconds a GB of tables, and our memory.
sub lines_used
{
	my ($self, $name, $result, $peer, $bytes) = @_;
	my ($ours, $its) = map { median(@{ $result->{$_}{cpu} }) / ($bytes / 2**30) } 'ours', $peer;
	$self->line("$name:cpu", ours => sprintf('%.1f s/GB', $ours), peer => sprintf('%.1f s/GB', $its),
		ratio => $its / $ours, remark => sprintf('both servers; %.2f GB of tables', $bytes / 2**30));
	return;
}

# line_memory(name, bytes, who)
sub line_memory
{
	my ($self, $name, $bytes, $who) = @_;
	$self->line($name, ours => sprintf('%.0f MB', $bytes / 2**20), reach => '<= 256 MB', value => $bytes / 2**20,
		remark => "above an idle session: $who");
	return;
}

sub seconds_text { return sprintf '%.3f s',  $_[0] }
sub ms_text      { return sprintf '%.0f ms', $_[0] }

1;
