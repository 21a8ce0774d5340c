# Proxy: a network that can be broken.
#
#   my $proxy = Proxy->new;
#   ... a server option port => $proxy->port ...
#   $proxy->start($port, $logfile);
#   $proxy->set('stall');
#
# Forwards TCP connections from a port of 127.0.0.1 to another one, in a process
# of its own, in one of these modes:
#
#   pass       as a network should
#   slow MS    each piece comes so much later
#   stall      nothing gets through; connections stay, new ones are not answered
#   mute       what is sent arrives, and nothing comes back
#   cut        all connections are reset, on both sides, and new ones too
#   orphan     as cut, but the far side is not told: its connections stay, silent
#
# What has come and was not forwarded yet is kept, up to a bound, beyond which the
# sender has to wait; a cut loses it.
package Proxy;

use strict;
use warnings;

use Carp;
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER IPPROTO_TCP TCP_NODELAY SHUT_WR);
use Time::HiRes qw(time);
use TortureProcess;

# Bytes a direction may keep.
my $bound = 256 * 1024;

sub new
{
	my ($class) = @_;
	my $listener = IO::Socket::INET->new(
		Listen => 64, LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp', Blocking => 0)
	  or croak "cannot listen: $!";
	return bless { listener => $listener, port => $listener->sockport }, $class;
}

sub port { return $_[0]{port} }

sub start
{
	my ($self, $to, $logfile) = @_;
	my $listener = delete $self->{listener};
	$self->{process} = TortureProcess->spawn('proxy', $logfile, sub { _run($listener, $to, @_) });
	close $listener;
	return;
}

# Returns when the mode is in force.
sub set
{
	my ($self, $mode) = @_;
	my $answer = $self->{process}->ask($mode, 60);
	croak "proxy: $answer" if $answer ne 'done';
	return;
}

sub finish { return $_[0]{process}->finish }

# A link is a connection to us and the one we made for it, near and far, and a
# flow each way: {from, to, up, pieces => [[when it is due, data], ...], kept}.
sub _run
{
	my ($listener, $to, $channel) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my ($mode, $delay) = ('pass', 0);
	my (@links, @orphans);

	while (1)
	{
		my ($readers, $writers) = (IO::Select->new($channel->handle), IO::Select->new);
		my $wait;
		$readers->add($listener) unless $mode eq 'stall';
		for my $flow (map { @{ $_->{flows} } } @links)
		{
			$readers->add($flow->{from}) if !$flow->{ended} && $flow->{kept} < $bound;
			next if !@{ $flow->{pieces} } || !_passes($mode, $flow);
			my $early = $flow->{pieces}[0][0] - time;
			if ($early <= 0)
			{
				$writers->add($flow->{to});
			}
			elsif (!defined $wait || $early < $wait)
			{
				$wait = $early;
			}
		}
		my ($readable, $writable) = IO::Select->select($readers, $writers, undef, $wait);
		my %ready = map { $_ => 1 } @{ $readable // [] };
		my %takes = map { $_ => 1 } @{ $writable // [] };

		if ($ready{ $channel->handle })
		{
			my $line = $channel->next_line(0) // next;
			my ($new, $ms) = $line =~ /^(pass|stall|mute|cut|orphan|slow (\d+))$/;
			if (!defined $new)
			{
				$channel->reply("no mode \"$line\"");
				next;
			}
			($mode, $delay) = ($new =~ s/ .*//r, ($ms // 0) / 1000);
			_reset(splice @orphans);
			if ($mode eq 'cut' || $mode eq 'orphan')
			{
				for my $link (splice @links)
				{
					_reset($link->{near});
					if   ($mode eq 'cut') { _reset($link->{far}) }
					else                  { push @orphans, $link->{far} }
				}
			}
			$channel->reply('done');
			next;
		}
		if ($ready{$listener})
		{
			my $link = _accept($listener, $to, $mode);
			push @links, $link if $link;
		}
		for my $link (@links)
		{
			for my $flow (@{ $link->{flows} })
			{
				_read($flow, $delay) if $ready{ $flow->{from} };
				_write($flow) if $takes{ $flow->{to} } && @{ $flow->{pieces} } && $flow->{pieces}[0][0] <= time;
				next if !$flow->{ended} || $flow->{shut} || @{ $flow->{pieces} } || !_passes($mode, $flow);
				shutdown $flow->{to}, SHUT_WR;
				$flow->{shut} = 1;
			}
			if (grep { $_->{broken} && _passes($mode, $_) } @{ $link->{flows} })
			{
				_reset(@{$link}{qw(near far)});
				$link->{over} = 1;
			}
			elsif (!grep { !$_->{shut} } @{ $link->{flows} })
			{
				close $_ for @{$link}{qw(near far)};
				$link->{over} = 1;
			}
		}
		@links = grep { !$_->{over} } @links;
	}
}

sub _passes
{
	my ($mode, $flow) = @_;
	return $mode eq 'pass' || $mode eq 'slow' || ($mode eq 'mute' && $flow->{up});
}

sub _accept
{
	my ($listener, $to, $mode) = @_;
	my $near = $listener->accept or return;
	my $far = $mode eq 'cut' || $mode eq 'orphan'
	  ? undef
	  : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $to, Proto => 'tcp');
	if (!$far)
	{
		_reset($near);
		return;
	}
	for my $socket ($near, $far)
	{
		$socket->blocking(0);
		setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
	}
	my @flows = map { { from => $_->[0], to => $_->[1], up => $_->[2], pieces => [], kept => 0 } }
	  [ $near, $far, 1 ], [ $far, $near, 0 ];
	return { near => $near, far => $far, flows => \@flows };
}

sub _read
{
	my ($flow, $delay) = @_;
	my $got = sysread $flow->{from}, my $data, 65536;
	if ($got)
	{
		push @{ $flow->{pieces} }, [ time + $delay, $data ];
		$flow->{kept} += $got;
	}
	elsif (defined $got)
	{
		$flow->{ended} = 1;
	}
	elsif ($! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR)
	{
		$flow->{broken} = $flow->{ended} = 1;
	}
	return;
}

sub _write
{
	my ($flow) = @_;
	my $piece = $flow->{pieces}[0];
	my $sent = syswrite $flow->{to}, $piece->[1];
	if (defined $sent)
	{
		$flow->{kept} -= $sent;
		substr $piece->[1], 0, $sent, '';
		shift @{ $flow->{pieces} } if $piece->[1] eq '';
	}
	elsif ($! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR)
	{
		$flow->{broken} = 1;
	}
	return;
}

# Ends connections in a way that both ends notice at once.
sub _reset
{
	for my $socket (@_)
	{
		setsockopt $socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
		close $socket;
	}
	return;
}

1;
