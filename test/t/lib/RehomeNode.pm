# RehomeNode: a PostgreSQL::Test::Cluster that is quicker to make and to ask.
#
# Much of the time of our tests went into starting programs: psql, once for each
# question, and initdb, once for each cluster. So:
#
#   init copies a cluster that another test made with the same arguments. It is
#        kept for each name, as the clusters of a test must not be taken for
#        copies of each other: a copy has the system identifier of its template.
#   psql gives the SQL to a psql that stays, and ends the session once it has
#        answered, as psql in a script has no way to disconnect. So each call has
#        its own session, as ever. What a psql cannot be trusted to have forgotten
#        afterwards (meta-commands, further arguments) has its own psql.
package RehomeNode;

use strict;
use warnings;

use parent 'PostgreSQL::Test::Cluster';

use Digest::MD5 qw(md5_hex);
use File::Path qw(rmtree);
use IPC::Run;
use List::Util qw(min);
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(usleep);

my $mark = 'RehomeNode has had the answer';

sub new
{
	my ($class, @arguments) = @_;
	my $self = $class->SUPER::new(@arguments);
	# A server so old that core has a class of its own for it stays with that.
	return ref $self eq 'PostgreSQL::Test::Cluster' ? bless $self, $class : $self;
}

sub init
{
	my ($self, @arguments) = @_;
	no warnings 'redefine';
	my $system_or_bail = \&PostgreSQL::Test::Utils::system_or_bail;
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		my ($program, @rest) = @_;
		return $program eq 'initdb' ? $self->_copy_template($system_or_bail, @rest) : $system_or_bail->($program, @rest);
	};
	return $self->SUPER::init(@arguments);
}

# Tests run side by side: who comes second to make a template throws its own away.
sub _copy_template
{
	my ($self, $system_or_bail, @arguments) = @_;
	my $place    = $ENV{TESTDATADIR} // $PostgreSQL::Test::Utils::tmp_check;
	my @general  = map { $_ eq $self->data_dir ? 'PGDATA' : $_ } @arguments;
	my $template = "$place/template_" . md5_hex(join "\0", $self->name, $self->installed_command('initdb'), @general);
	if (!-d $template)
	{
		my $mine = "$template.$$";
		$system_or_bail->('initdb', map { $_ eq 'PGDATA' ? $mine : $_ } @general);
		rename $mine, $template or -d $template or die "cannot rename $mine to $template: $!";
		rmtree($mine);
	}
	return $system_or_bail->('cp', '-RPp', $template, $self->data_dir);
}

sub psql
{
	my ($self, $dbname, $sql, %params) = @_;
	my %known = map { $_ => 1 } qw(stdout stderr on_error_die on_error_stop);
	my $plain = !grep { !$known{$_} } keys %params;
	# (13 is the first whose psql has \warn.)
	if ($plain && $self->pg_version >= 13 && ($params{on_error_stop} // 1) && $sql !~ /^\s*\\|\\(?:g|gset|gexec|gx|watch|crosstabview|;)(?:\s|$)/m)
	{
		my ($status, $stdout, $stderr) = $self->_ask_kept($dbname, $sql);
		if (defined $status)
		{
			chomp($stdout, $stderr);
			${ $params{stdout} } = $stdout if $params{stdout};
			${ $params{stderr} } = $stderr if $params{stderr};
			die "error running SQL, status $status: '$stderr'\nwith sql '$sql'" if $status && $params{on_error_die};
			return wantarray ? ($status, $stdout, $stderr) : $status;
		}
	}
	return $self->SUPER::psql($dbname, $sql, %params);
}

# (exit status, stdout, stderr), as of a psql that this SQL alone was given; or
# nothing where there was no connection, and so nothing was done.
sub _ask_kept
{
	my ($self, $dbname, $sql) = @_;
	local %ENV = $self->_get_env();
	my $environment = join "\0", $$, map { "$_=$ENV{$_}" } grep { /^PG/ } sort keys %ENV;
	my $kept = $self->{rehome_psql};
	if ($kept && $kept->{environment} ne $environment)
	{
		$self->_end_kept;
		$kept = undef;
	}
	my $before = '';
	if ($kept)
	{
		@$kept{qw(out err)} = ('', '');
		$before = "\\set ON_ERROR_STOP 1\n\\connect -reuse-previous=off \"" . $self->connstr($dbname) =~ s/"/""/gr . "\"\n";
	}
	else
	{
		$kept = $self->{rehome_psql} = { environment => $environment, in => '', out => '', err => '' };
		$kept->{timeout} = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default * 4);
		$kept->{run} = IPC::Run::start(
			[ $self->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $self->connstr($dbname), '-f', '-' ],
			'<', \$kept->{in}, '>', \$kept->{out}, '2>', \$kept->{err}, $kept->{timeout});
	}
	my ($connected, $answered, $done) = map { "$mark $_\n" } 1 .. 3;
	$before .= "SELECT pg_backend_pid();\n\\warn $connected";
	# What it says once it is told to end is not for the server's log.
	$kept->{in} = "$before$sql\n;\n\\warn $answered"
	  . "\\unset ON_ERROR_STOP\nSET log_min_messages = panic;\n\\echo $done\\warn $done";
	my $lines_before = ($kept->{lines} // 0) + ($before =~ tr/\n//);
	my $lines        = 1 + ($sql =~ s/\n\z//r =~ tr/\n//);
	$kept->{lines} += $kept->{in} =~ tr/\n//;
	$kept->{timeout}->start;
	my $is_done = sub { _ends($kept->{out}, $done) && _ends($kept->{err}, $done) };
	$kept->{run}->pump while $kept->{run}->pumpable && !$is_done->();

	my ($out, $err) = @$kept{qw(out err)};
	my $status = 0;
	if ($is_done->())
	{
		my ($pid) = $out =~ /^(\d+)\n/ or die "psql did not say with whom it speaks: $out";
		kill 'TERM', $pid;
		my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
		while (kill 0, $pid)
		{
			die "session $pid does not end" if time > $limit;
			usleep(500);
		}
	}
	else
	{
		delete $self->{rehome_psql};
		$kept->{run}->finish;
		$status = $kept->{run}->full_result(0);
		die "psql ended by signal " . ($status & 127) . ": $err" if $status & 127;
		$status >>= 8;
		($out, $err) = @$kept{qw(out err)};
	}
	return unless $err =~ s/^.*?\Q$connected\E//s;
	$out =~ s/^\d+\n//;
	$out =~ s/\Q$done\E\z//;
	$err =~ s/\Q$answered\E.*\z//s;
	$err =~ s/^psql:<stdin>:\K(\d+)/min($1 - $lines_before, $lines)/gem;
	return ($status, $out, $err);
}

sub _ends
{
	my ($text, $end) = @_;
	return length $text >= length $end && substr($text, -length $end) eq $end;
}

# A process that was forked has its parent's, and leaves it alone.
sub _end_kept
{
	my ($self) = @_;
	my $kept = delete $self->{rehome_psql} or return;
	return if $kept->{environment} !~ /^$$\0/;
	$kept->{in} .= "\\q\n";
	$kept->{run}->finish;
	return;
}

sub teardown_node
{
	my ($self, @arguments) = @_;
	$self->_end_kept;
	return $self->SUPER::teardown_node(@arguments);
}

1;
