# TortureObserver: looks at both sides all the time, and sees only what holds at
# every instant: see TortureSchema's violations(). A target is looked at from the
# end of its copy on.
#
# Told "seen", it answers with the number of snapshots looked at on the source and
# on the target since it was last asked, and what was wrong, if anything was:
#
#   SOURCE TARGET
#   wrong SIDE VIOLATION; VIOLATION...
package TortureObserver;

use strict;
use warnings;

use DBI;
use DBD::Pg;
use Time::HiRes qw(time);
use TortureSchema qw(tables violations);

my $exact = q{
	SELECT state FROM rehome.slice WHERE state IN ('syncing', 'cutting_over', 'cut_over', 'rolling_back')
};

sub run
{
	my ($channel, $dsn) = @_;
	my %session;
	my %seen = (source => 0, target => 0);
	my ($wrong, $took) = (undef, 0);
	while (1)
	{
		# as long as it looked, so that others get at the locks, too
		my $line = $channel->next_line(0.05 + $took);
		if (defined $line)
		{
			die "told \"$line\"\n" if $line ne 'seen';
			$channel->reply($wrong // "$seen{source} $seen{target}");
			%seen = (source => 0, target => 0);
			next;
		}
		my $began = time;
		for my $side (qw(source target))
		{
			next if defined $wrong;
			my $well = eval {
				$session{$side} //= DBI->connect("dbi:Pg:$dsn->{$side};application_name=torture_observer", undef, undef,
					{ AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0, pg_server_prepare => 0 });
				my $found = look($session{$side}, $side);
				$seen{$side}++ if defined $found;
				$wrong = "wrong $side " . $found =~ s/\n/; /gr if $found;
				1;
			};
			next if $well;
			my $error = $@;
			my $dbh = $session{$side};
			my $sqlstate = $dbh ? $dbh->state : '';
			die "observer, $side: $sqlstate $error\n" if $dbh && $dbh->ping > 0 && $sqlstate !~ /^(?:55P03|40P01)$/;
			if ($dbh)
			{
				local $dbh->{RaiseError} = 0;
				$dbh->disconnect;
			}
			$session{$side} = undef;
		}
		$took = time - $began;
	}
}

# undef: not to be looked at now. Else what is wrong, at one snapshot.
sub look
{
	my ($dbh, $side) = @_;
	$dbh->do('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
	$dbh->do(q{SET LOCAL lock_timeout = '1s'});
	# the locks first, the snapshot then
	$dbh->do('LOCK TABLE ' . join(', ', map { "app.$_" } tables()) . ' IN ACCESS SHARE MODE');
	my ($state) = $side eq 'target' ? $dbh->selectrow_array($exact) : ('source');
	my $found = defined $state ? $dbh->selectcol_arrayref(violations()) : undef;
	$dbh->do('COMMIT');
	return undef unless $found;
	return @$found ? "in state $state:\n" . join("\n", @$found) : '';
}

1;
