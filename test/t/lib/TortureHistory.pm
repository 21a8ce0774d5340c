# TortureHistory: what the clients of the torture test saw, held against what is
# there, and against who had authority when.
#
# A commit took effect at an instant between the client's begin and end. While one
# side has authority, no instant of the other side's commits can lie in it. And the
# versions that commits made of a register follow each other: a commit that began
# when another one had ended made a later version of it.
package TortureHistory;

use strict;
use warnings;

# new(logs of the clients): each check is about what was logged since the last one.
sub new
{
	my ($class, @logs) = @_;
	return bless { logs => [ map { { file => $_, at => 0 } } @logs ] }, $class;
}

# What was logged since: {client}{seq} => {side, begin, end, outcome, register, version}.
sub _read
{
	my ($self) = @_;
	my %entry;
	for my $i (0 .. $#{ $self->{logs} })
	{
		my $log = $self->{logs}[$i];
		open my $fh, '<', $log->{file} or die "cannot open $log->{file}: $!";
		seek $fh, $log->{at}, 0;
		while (my $line = <$fh>)
		{
			my %one;
			(my $seq, @one{qw(side begin end outcome register version)}) = split / /, $line =~ s/\n//r;
			$entry{ $i + 1 }{$seq} = \%one;
		}
		$log->{at} = tell $fh;
	}
	return \%entry;
}

=pod

=item $history->check($rows, $switches, $losses)

Returns ({outcome => count}, complaints). $rows is [[client, seq, side, register,
version], ...], all there is; $switches [[when, side that has authority since],
...], in order; $losses {side => [[from, to], ...]}: when commits that did not
wait for the disk may have been lost.

=cut

sub check
{
	my ($self, $rows, $switches, $losses) = @_;
	my $entry = $self->_read;
	my (@wrong, %count, @there);

	for (@$rows)
	{
		my ($client, $seq, $side, $register, $version) = @$_;
		my $name = "transaction $seq of client $client";
		my $one = $entry->{$client}{$seq};
		if (!$one)
		{
			push @wrong, "$name is there, and did not come to its commit, or not in this round";
			next;
		}
		$one->{there} = 1;
		push @wrong, "$name is there, but failed" if $one->{outcome} eq 'failed';
		push @wrong, "$name is there as $side $register $version, but was $one->{side} $one->{register} $one->{version}"
		  if "$side $register $version" ne "$one->{side} $one->{register} $one->{version}";
		$one->{name} = $name;
		$one->{end} = 'inf' if $one->{outcome} eq 'unknown';
		push @there, $one;
	}
	for my $client (sort { $a <=> $b } keys %$entry)
	{
		for my $seq (sort { $a <=> $b } keys %{ $entry->{$client} })
		{
			my $one = $entry->{$client}{$seq};
			$count{ $one->{outcome} }++;
			$count{"on the $one->{side}"}++ if $one->{there};
			next if $one->{there} || $one->{outcome} ne 'committed';
			if (grep { $_->[0] <= $one->{begin} && $one->{begin} <= $_->[1] } @{ $losses->{ $one->{side} } })
			{
				$count{'lost before the disk had them'}++;
				next;
			}
			push @wrong, "transaction $seq of client $client is lost: committed on the $one->{side}, " . _when($one);
		}
	}
	push @wrong, _out_of_order(@there), _without_authority($switches, @there);
	return (\%count, @wrong);
}

sub _when { return sprintf 'between %.6f and %.6f', @{ $_[0] }{qw(begin end)} }

sub _out_of_order
{
	my (@there) = @_;
	my (%of, @wrong);
	push @{ $of{ $_->{register} } }, $_ for @there;
	for my $register (sort keys %of)
	{
		my $latest;
		for my $one (sort { $a->{version} <=> $b->{version} } @{ $of{$register} })
		{
			push @wrong, "$one->{name} made version $one->{version} of register $register on the $one->{side} " . _when($one)
			  . ", before $latest->{name} made version $latest->{version} on the $latest->{side} " . _when($latest)
			  if $latest && $one->{end} < $latest->{begin};
			$latest = $one if !$latest || $one->{begin} > $latest->{begin};
		}
	}
	return @wrong;
}

sub _without_authority
{
	my ($switches, @there) = @_;
	my @wrong;
	my @spans = map { { from => $switches->[$_][0], to => $_ < $#$switches ? $switches->[ $_ + 1 ][0] : 'inf', side => $switches->[$_][1] } } 0 .. $#$switches;
	for my $one (@there)
	{
		for my $span (grep { $_->{side} ne $one->{side} } @spans)
		{
			push @wrong, "$one->{name} was committed on the $one->{side} " . _when($one)
			  . ", when the $span->{side} had authority: from $span->{from} to $span->{to}"
			  if $span->{from} <= $one->{begin} && $one->{end} <= $span->{to} && $one->{end} != 'inf';
		}
	}
	return @wrong;
}

1;
