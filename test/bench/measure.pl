#!/usr/bin/env perl
# test/bench/measure.pl: runs one group of measures between two servers that
# test/bench/run has started for it.
#
#   measure.pl --groups [MEASURE...]     the groups that have these measures, one a
#                                        line: all measures of it that are wanted
#   measure.pl --header                  the head of the table of results
#   measure.pl --source DIR --target DIR --tmp DIR --bindir DIR --results FILE
#              --rounds N --scale N --seconds N --jobs N --timeout N MEASURE...
#
# Ends with 1 if a measure could not be taken or its contents were wrong, with 2 if
# a reach was missed and --strict was given.
use strict;
use warnings;

use FindBin;
use Getopt::Long;
use lib "$FindBin::RealBin/lib";

use Bench;
use Bench::Measure::Copy;
use Bench::Measure::Mapping;
use Bench::Measure::Size;
use Bench::Measure::Switch;
use Bench::Measure::Sync;
use Bench::Measure::Verify;

# [code, names of its measures], in the order in which they are run
my @groups = (
	Bench::Measure::Copy::measures(), Bench::Measure::Mapping::measures(), Bench::Measure::Sync::measures(),
	Bench::Measure::Switch::measures(), Bench::Measure::Verify::measures(), Bench::Measure::Size::measures());

$| = 1;

my %option;
GetOptions(\%option, qw(groups header strict source=s target=s tmp=s bindir=s results=s
	rounds=i scale=i seconds=i jobs=i timeout=i))
  or die "usage: see the head of $0\n";
my @wanted = @ARGV;

if ($option{header})
{
	print Bench::header();
	exit 0;
}

my %known = map { $_ => 1 } map { my (undef, @names) = @$_; @names } @groups;
my @unknown = grep { !$known{$_} } @wanted;
die "no measure @unknown; there are: @{[ map { my (undef, @names) = @$_; @names } @groups ]}\n" if @unknown;
@wanted = keys %known if !@wanted;

my %wanted = map { $_ => 1 } @wanted;
if ($option{groups})
{
	for my $group (@groups)
	{
		my (undef, @names) = @$group;
		my $line = join ' ', grep { $wanted{$_} } @names;
		print "$line\n" if $line;
	}
	exit 0;
}

my $bench = Bench->new(%option, only => \@wanted);
for my $group (@groups)
{
	my ($code, @names) = @$group;
	$code->($bench) if grep { $wanted{$_} } @names;
}
exit($option{strict} && $bench->short ? 2 : 0);
