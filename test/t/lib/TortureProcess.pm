# TortureProcess: a process of the torture test, and the line to it.
#
#   my $process = TortureProcess->spawn('client 1', $logfile, sub {
#       my ($channel) = @_;
#       ...
#   });
#   my $answer = $process->ask('stop');
#
# The process is a fork that never runs what the test has at its end. It is told
# what to do in lines, and answers each with one. It ends when the test ends, in
# whatever way: then its line breaks. What it prints goes to the logfile.
package TortureProcess;

use strict;
use warnings;

use Carp;
use IO::Handle;
use IO::Select;
use POSIX ();
use Socket;
use Time::HiRes qw(time);

# The test's ends of all lines: no process is to hold another one's open.
my @ends;

sub spawn
{
	my ($class, $name, $logfile, $code) = @_;
	socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak "no socket pair: $!";
	$_->autoflush(1) for $ours, $theirs;
	my $pid = fork // croak "no fork: $!";
	if (!$pid)
	{
		close $_ for $ours, @ends;
		$SIG{$_} = 'DEFAULT' for qw(ALRM CHLD HUP INT TERM __DIE__ __WARN__);
		open STDOUT, '>>', $logfile or POSIX::_exit(2);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(2);
		STDOUT->autoflush(1);
		my $channel = bless { socket => $theirs, pending => '' }, 'TortureProcess::Channel';
		my $well = eval { $code->($channel); 1 };
		print STDERR "$name ($$): $@" unless $well;
		# no END block, no destructor: they are the test's
		POSIX::_exit($well ? 0 : 1);
	}
	close $theirs;
	push @ends, $ours;
	return bless { name => $name, pid => $pid, socket => $ours, logfile => $logfile, pending => '' }, $class;
}

sub name { return $_[0]{name} }

=pod

=item $process->ask($line, $timeout)

Sends the line and returns the answer; dies when the process is gone or silent.

=cut

sub ask
{
	my ($self, $line, $timeout) = @_;
	$self->tell($line);
	return $self->answer($timeout);
}

sub tell
{
	my ($self, $line) = @_;
	local $SIG{PIPE} = 'IGNORE';
	defined syswrite $self->{socket}, "$line\n" or $self->_gone("it cannot be told \"$line\": $!");
	return;
}

sub answer
{
	my ($self, $timeout) = @_;
	my $until = time + $timeout;
	my $select = IO::Select->new($self->{socket});
	while (1)
	{
		return $1 if $self->{pending} =~ s/^(.*)\n//;
		my $left = $until - time;
		$self->_gone("no answer in $timeout s") if $left <= 0 || !$select->can_read($left);
		sysread $self->{socket}, $self->{pending}, 4096, length $self->{pending}
		  or $self->_gone('it has ended');
	}
}

sub _gone
{
	my ($self, $why) = @_;
	my $log = '';
	if (open my $fh, '<', $self->{logfile})
	{
		my @lines = <$fh>;
		$log = join '', @lines > 20 ? @lines[ -20 .. -1 ] : @lines;
	}
	croak "$self->{name}: $why\n$log";
}

=pod

=item $process->finish

Breaks the line, by which the process ends; returns its exit status.

=cut

sub finish
{
	my ($self) = @_;
	@ends = grep { $_ != $self->{socket} } @ends;
	close $self->{socket};
	waitpid $self->{pid}, 0;
	return $? >> 8 || $? & 127;
}

# The process's end.
package TortureProcess::Channel;

use strict;
use warnings;

use IO::Select;
use POSIX ();
use Time::HiRes qw(time);

sub handle { return $_[0]{socket} }

# The next line, or undef when none has come within the timeout (seconds). Does
# not return when the test is gone.
sub next_line
{
	my ($self, $timeout) = @_;
	my $until = time + $timeout;
	while (1)
	{
		return $1 if $self->{pending} =~ s/^(.*)\n//;
		my $left = $until - time;
		return undef unless IO::Select->new($self->{socket})->can_read($left > 0 ? $left : 0);
		sysread $self->{socket}, $self->{pending}, 4096, length $self->{pending} or POSIX::_exit(0);
	}
}

sub reply
{
	my ($self, $line) = @_;
	local $SIG{PIPE} = 'IGNORE';
	defined syswrite $self->{socket}, "$line\n" or POSIX::_exit(0);
	return;
}

1;
