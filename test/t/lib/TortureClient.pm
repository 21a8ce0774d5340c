# TortureClient: one client of the torture test. It runs random transactions, one
# after the other, on the side that has authority, which it finds as any client
# does: SQLSTATE 25006 (read_only_sql_transaction) sends it to the other side. A
# lost connection does not: the server will be back.
#
# For each transaction that came as far as its commit it writes a line to its log:
#
#   seq side begin end outcome register version
#
# begin is before COMMIT was sent, end after its answer came, and outcome is
# committed, failed, or unknown when the connection was lost in between.
#
# It is told, and answers when it is done:
#
#   round N            chooses as round N does
#   go, stop           between two transactions, with nothing left prepared
#   stay SIDE, follow  stays there, whatever it is told; or follows the authority
package TortureClient;

use strict;
use warnings;

use DBI;
use DBD::Pg;
use Time::HiRes qw(time sleep);
use TortureSchema qw(operate registers pick weighted);

# Errors a client has to live with, beside that of the wrong side: serialization
# failure, deadlock, lock timeout, query cancelled, a unique or a foreign key that
# another client was faster with.
my $retry = qr/^(?:40001|40P01|55P03|57014|23505|23503)$/;

my %other = (source => 'target', target => 'source');

# run($channel, id, log, seed, {source => DSN, target => DSN}): until the test ends.
sub run
{
	my ($channel, $id, $log, $seed, $dsn) = @_;
	open my $fh, '>>', $log or die "cannot open $log: $!\n";
	my $self = bless { id => $id, seed => $seed, dsn => $dsn, log => $fh, side => 'source', seq => 0, sessions => 0, refused => 0 };
	my $stopped = 1;
	while (1)
	{
		my $line = $channel->next_line($stopped ? 3600 : 0);
		if (defined $line)
		{
			my ($word, @more) = split / /, $line;
			if    ($word eq 'go')     { $stopped = 0 }
			elsif ($word eq 'stop')   { $self->settle; $stopped = 1 }
			elsif ($word eq 'follow') { $self->{stay} = undef }
			elsif ($word eq 'stay')   { $self->settle; $self->move_to($more[0]); $self->{stay} = 1 }
			elsif ($word eq 'round')  { srand($self->{seed} * 1000003 + $more[0] * 101 + $id) }
			else { die "told \"$line\"\n" }
			$channel->reply('done');
		}
		elsif (!$stopped)
		{
			$self->transaction;
		}
	}
}

sub move_to
{
	my ($self, $side) = @_;
	$self->disconnect if $side ne $self->{side};
	$self->{side} = $side;
	return;
}

sub disconnect
{
	my ($self) = @_;
	my $dbh = delete $self->{dbh} // return;
	local $dbh->{RaiseError} = 0;
	$dbh->disconnect;
	return;
}

# Each session has a name of its own, so that its end can be seen.
sub session_name
{
	my ($self) = @_;
	return "torture_client_$self->{id}_session_$self->{sessions}";
}

sub connect_to
{
	my ($self, $side, $name) = @_;
	return DBI->connect("dbi:Pg:$self->{dsn}{$side};application_name=$name", undef, undef,
		{ AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0, pg_server_prepare => 0 });
}

sub session
{
	my ($self) = @_;
	return $self->{dbh} if $self->{dbh};
	$self->{sessions}++;
	$self->{dbh} = $self->connect_to($self->{side}, $self->session_name);
	$self->{dbh}->do(q{SET client_min_messages = error; SET lock_timeout = '2s'; SET statement_timeout = '20s'});
	return $self->{dbh};
}

# One transaction; its outcome is in the log, unless it did not come so far.
sub transaction
{
	my ($self) = @_;
	my $t = { seq => ++$self->{seq}, gid => undef, began => undef };
	my $way = weighted([ [ 70, 'commit' ], [ 12, 'prepare' ], [ 3, 'long' ], [ 6, 'rollback' ], [ 3, 'prepare, rollback' ], [ 1, 'prepare, long' ] ]);
	my $well = eval { $self->attempt($t, $way); 1 };
	my $error = $@;
	if ($well)
	{
		$self->{refused} = 0;
		# a client has other things to do, too
		sleep rand 0.1;
		return;
	}

	my $dbh = $self->{dbh};
	my $sqlstate = ($dbh ? $dbh->state : '') || '08006';
	my $constraint = $dbh && $sqlstate eq '23505' ? $dbh->pg_error_field('pg_diag_constraint_name') // '' : '';
	my $lost = !$dbh || $dbh->ping <= 0;
	if (!$lost)
	{
		local $dbh->{PrintWarn} = 0;
		$lost = !eval { $dbh->do('ROLLBACK'); 1 };
	}
	if ($lost)
	{
		$self->disconnect;
		if ($t->{gid})
		{
			$self->find_out($t);
		}
		else
		{
			$self->note($t, 'unknown') if $t->{began};
		}
		# a server that is not there will be, and polling is all one can do
		sleep 0.02;
		return;
	}
	$self->note($t, 'failed') if $t->{began} && !$t->{gid};
	if ($sqlstate eq '25006')
	{
		$self->move_to($other{ $self->{side} }) unless $self->{stay};
		# refused by both in turn: for a moment neither is the one
		sleep 0.01 + rand 0.02 if $self->{refused}++;
	}
	elsif ($sqlstate !~ $retry || $constraint =~ /^(?:account|entry|effect|history|register)_/)
	{
		die "client $self->{id}, transaction $t->{seq} on the $self->{side}: $sqlstate $error\n";
	}
	if ($t->{gid})
	{
		$self->find_out($t);
	}
	return;
}

sub attempt
{
	my ($self, $t, $way) = @_;
	my $dbh = $self->session;
	my $register = 1 + int rand registers();
	my $first = rand(3) < 1;
	my @effects;

	$t->{side} = $self->{side};
	$t->{register} = $register;
	$dbh->do(rand(8) < 1 ? 'BEGIN ISOLATION LEVEL REPEATABLE READ' : 'BEGIN');
	$self->count($t) if $first;
	for (0 .. rand 4)
	{
		if (rand(5) < 1)
		{
			my $before = @effects;
			$dbh->do('SAVEPOINT one');
			operate($dbh, \@effects, $self->{side});
			if (rand(2) < 1)
			{
				$dbh->do('ROLLBACK TO SAVEPOINT one');
				$#effects = $before - 1;
			}
			operate($dbh, \@effects, $self->{side});
			$dbh->do('RELEASE SAVEPOINT one') if rand(2) < 1;
		}
		else
		{
			operate($dbh, \@effects, $self->{side});
		}
		sleep rand 0.8 if $way =~ /long/ && rand(3) < 1;
	}
	my %sum;
	for (@effects)
	{
		my ($table, $rows, $qty) = @$_;
		$sum{$table}[0] += $rows;
		$sum{$table}[1] += $qty;
	}
	for my $table (sort keys %sum)
	{
		$dbh->do('INSERT INTO app.effect VALUES (?, ?, ?, ?, ?)', undef, @{$self}{qw(id seq)}, $table, @{ $sum{$table} });
	}
	$self->count($t) unless $first;

	if ($way eq 'rollback')
	{
		$dbh->do('ROLLBACK');
		return;
	}
	if ($way =~ /prepare/)
	{
		$t->{gid} = "torture $self->{id} $self->{seq}";
		$dbh->do("PREPARE TRANSACTION '$t->{gid}'");
		$t->{prepared} = 1;
		sleep rand($way =~ /long/ ? 1 : 0.02);
		if ($way =~ /rollback/)
		{
			$dbh->do("ROLLBACK PREPARED '$t->{gid}'");
			return;
		}
	}
	$t->{began} = time;
	$dbh->do($t->{gid} ? "COMMIT PREPARED '$t->{gid}'" : 'COMMIT');
	$self->note($t, 'committed');
	return;
}

# The one row that every transaction adds to, and the note of it.
sub count
{
	my ($self, $t) = @_;
	($t->{version}) = $self->{dbh}->selectrow_array('UPDATE app.register SET version = version + 1 WHERE id = ? RETURNING version', undef, $t->{register});
	$self->{dbh}->do('INSERT INTO app.history VALUES (?, ?, ?, ?, ?)', undef, @{$self}{qw(id seq)}, @{$t}{qw(side register version)});
	return;
}

sub note
{
	my ($self, $t, $outcome) = @_;
	my $line = sprintf "%d %s %.6f %.6f %s %d %d\n", $t->{seq}, $t->{side}, $t->{began}, time, $outcome, $t->{register}, $t->{version};
	syswrite($self->{log}, $line) == length $line or die "cannot write the log: $!\n";
	return;
}

# What became of a prepared transaction whose session failed. When that session
# has ended nothing more can happen to it, but by us: if it is still there, it is
# committed.
sub find_out
{
	my ($self, $t) = @_;
	my $old = $self->session_name;
	$self->disconnect;
	my $dbh;
	until (defined $t->{fate})
	{
		my $well = eval {
			$dbh //= $self->connect_to($t->{side}, "torture_client_$self->{id}_finds_out");
			my ($there) = $dbh->selectrow_array('SELECT count(*) FROM pg_stat_activity WHERE application_name = ?', undef, $old);
			if (!$there)
			{
				($there) = $dbh->selectrow_array('SELECT count(*) FROM pg_prepared_xacts WHERE gid = ?', undef, $t->{gid});
				if ($there)
				{
					$t->{prepared} = 1;
					$t->{began} //= time;
					$dbh->do("COMMIT PREPARED '$t->{gid}'");
					$t->{fate} = 'committed';
				}
				else
				{
					# gone: by the COMMIT whose answer was lost, or never prepared, or rolled back
					$t->{fate} = $t->{prepared} && $t->{began} ? 'committed' : 'none';
				}
			}
			1;
		};
		if (!$well)
		{
			my $error = $@;
			my $lost = !$dbh || $dbh->ping <= 0;
			die "client $self->{id}, prepared transaction $t->{seq}: $error\n" unless $lost;
			$dbh = undef;
		}
		# the server is on its way back, or the session on its way out: polled for
		sleep 0.02 unless defined $t->{fate};
	}
	$self->note($t, 'committed') if $t->{fate} eq 'committed';
	$dbh->disconnect;
	return;
}

# Nothing is left open: every transaction has been settled before the next one.
sub settle
{
	my ($self) = @_;
	$self->disconnect;
	return;
}

1;
