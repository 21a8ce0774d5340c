# Bench::Measure::Verify: comparing both sides.
package Bench::Measure::Verify;

use strict;
use warnings;

use Bench::Data;
use Bench::Peer;
use Bench::Rehome;

my $dbname = 'bench';
my $table  = 'rows';
my $differ = 100;

# verify of one table of integer key, as pg_comparator has to be told; dies
# unless exactly so many rows differ.
sub verify
{
	my ($bench, $expected) = @_;
	my ($row, @more) = rehome_verify($bench, $dbname);
	die "verify gave several rows for one table\n" if @more;
	die "verify found $row->{differing} differing, $row->{missing} missing and $row->{extra} extra rows"
	  . " where $expected differ\n"
	  if $row->{differing} != $expected || $row->{missing} || $row->{extra};
	die "verify says $row->{source_rows} and $row->{target_rows} rows\n"
	  if $row->{source_rows} != $row->{target_rows} || $row->{source_rows} == 0;
	return;
}

sub compare
{
	my ($bench, $expected, %option) = @_;
	my @found = comparator_compare($bench, $dbname, $dbname, $table, 'id', [qw(value name)], %option);
	die 'pg_comparator found ' . @found . " differing rows where $expected differ\n" if @found != $expected;
	return;
}

# Rows of the target other than they should be, spread over the table, and back.
# Only who takes the guard off can do that.
sub differ
{
	my ($bench, $by) = @_;
	my $rows = $bench->target->value($dbname, "SELECT max(id) FROM $table");
	my $step = int $rows / $differ;
	my $changed;
	$bench->target->do($dbname, "ALTER TABLE $table DISABLE TRIGGER rehome_guard");
	$changed = $bench->target->dbh($dbname)->do("UPDATE $table SET value = value + $by WHERE id % $step = 0 AND id <= $step * $differ");
	$bench->target->do($dbname, "ALTER TABLE $table ENABLE ALWAYS TRIGGER rehome_guard");
	die "changed $changed rows, and not $differ\n" if $changed != $differ;
	return;
}

sub prepare
{
	my ($bench) = @_;
	my $rows = $bench->scaled(3_000_000);
	$bench->source->create_database($dbname);
	data_rows($bench, $bench->source, $dbname, $table, $rows);
	rehome_migrate($bench, $dbname, $dbname);
	comparator_prepare($bench, $dbname, $dbname);
	$bench->target->do($dbname, "VACUUM ANALYZE $table");
	return $rows;
}

sub verify_all
{
	my ($bench) = @_;
	my $rows = prepare($bench);

	my $differs = sub { differ($bench, 1) };
	my $equals  = sub { differ($bench, -1) };
	my @contenders = { name => 'ours', run => sub { verify($bench, 0) } };
	push @contenders,
	  { name => 'peer', run => sub { compare($bench, 0) } },
	  { name => 'peer, tuned', run => sub { compare($bench, 0, tuned => 1) } }
	  if $bench->wanted('verify-equal');
	push @contenders,
	  { name => 'differing', before => $differs, run => sub { verify($bench, $differ) }, after => $equals },
	  { name => 'peer, diff.', before => $differs, run => sub { compare($bench, $differ, tuned => 1) }, after => $equals }
	  if $bench->wanted('verify-diff');
	my $result = $bench->contend(name => 'verify', contenders => \@contenders);
	$bench->same_contents($dbname, $bench->contents($bench->source, $dbname), 'the verifications');

	if ($bench->wanted('verify-equal'))
	{
		$bench->line_times('verify-equal', $result, 'peer', '>= 5', "$rows rows; against pg_comparator");
		$bench->line_times('verify-equal:tuned', $result, 'peer, tuned', undef, 'against pg_comparator with the options that help it');
	}
	if ($bench->wanted('verify-diff'))
	{
		my ($equal, $differing, $peer) = map { Bench::median(@{ $result->{$_}{seconds} }) } 'ours', 'differing', 'peer, diff.';
		$bench->line('verify-diff', ours => Bench::seconds_text($differing), peer => Bench::seconds_text($equal),
			ratio => $differing / $equal, reach => '<= 1.2', remark => "$differ of $rows rows differ; against none");
		$bench->line('verify-diff:peer', ours => Bench::seconds_text($differing), peer => Bench::seconds_text($peer),
			ratio => $peer / $differing, remark => 'against pg_comparator, with the same differences');
	}
	$bench->line_memory('verify:memory', @{ $result->{ours} }{qw(memory who)});
	return;
}

sub measures { return [ \&verify_all, qw(verify-equal verify-diff) ] }

1;
