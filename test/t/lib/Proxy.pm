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
#   choke N    as pass, until so many bytes of a connection have gone towards the port:
#              no more of it get there; choked() tells of how many that is so
#   cut        all connections are reset, on both sides, and new ones too
#   orphan     as cut, but the far side is not told: its connections stay, silent
#   trap HOW   as pass, until a session that has sent a call of set_fence(), by which
#              authority moves, sends its COMMIT: then that connection breaks
#                lost      before the COMMIT arrives
#                unheard   after it has arrived, before its answer comes
#                late MS   before; and the COMMIT arrives so much later, when nobody
#                          waits for it any more
#              and it is pass again; sprung() tells how often that was, late() how
#              many COMMITs are still to arrive
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

sub sprung { return $_[0]{process}->ask('sprung', 60) }

# How many COMMITs are still to arrive.
sub late { return $_[0]{process}->ask('late', 60) }

# How many connections are choked.
sub choked { return $_[0]{process}->ask('choked', 60) }

sub finish { return $_[0]{process}->finish }

# In the process. The state of the network: mode, delay, most, trap and sprung; links;
# orphans, far ends without a near one; late, what arrives after its sender has
# gone: {due, far, data}. A link is a connection to us and the one we made for it,
# near and far, and a flow each way: {from, to, up, pieces, kept, carried}, of which
# pieces are [when it is due, data].
sub _run
{
	my ($listener, $to, $channel) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my %net = (mode => 'pass', delay => 0, most => 0, trap => '', sprung => 0, links => [], orphans => [], late => []);

	while (1)
	{
		my ($readers, $writers) = (IO::Select->new($channel->handle), IO::Select->new);
		my @due = map { $_->{due} } @{ $net{late} };
		$readers->add($listener) unless $net{mode} eq 'stall';
		for my $flow (map { @{ $_->{flows} } } @{ $net{links} })
		{
			$readers->add($flow->{from}) if !$flow->{ended} && $flow->{kept} < $bound;
			next if !@{ $flow->{pieces} } || !_passes(\%net, $flow);
			if   ($flow->{pieces}[0][0] <= time) { $writers->add($flow->{to}) }
			else                                 { push @due, $flow->{pieces}[0][0] }
		}
		my ($next) = sort { $a <=> $b } @due;
		my $wait = defined $next ? $next - time : undef;
		$wait = 0 if defined $wait && $wait < 0;
		my ($readable, $writable) = IO::Select->select($readers, $writers, undef, $wait);
		my %ready = map { $_ => 1 } @{ $readable // [] };
		my %takes = map { $_ => 1 } @{ $writable // [] };

		if ($ready{ $channel->handle })
		{
			my $line = $channel->next_line(0);
			$channel->reply(_obey(\%net, $line)) if defined $line;
			# What was ready may be gone; and what ended while nothing got through
			# is passed on, for which nobody else may ever wake us.
			%ready = %takes = ();
		}
		_deliver_late(\%net);
		_accept(\%net, $listener, $to) if $ready{$listener};
		_serve(\%net, $_, \%ready, \%takes) for @{ $net{links} };
		@{ $net{links} } = grep { !$_->{over} } @{ $net{links} };
	}
}

sub _obey
{
	my ($net, $line) = @_;
	return $net->{sprung} if $line eq 'sprung';
	return scalar @{ $net->{late} } if $line eq 'late';
	return scalar grep { !_passes($net, $_) } map { @{ $_->{flows} } } @{ $net->{links} } if $line eq 'choked';
	return "no mode \"$line\"" unless $line =~ /^(?:(pass|stall|mute|cut|orphan)|(slow) (\d+)|(choke) (\d+)|(trap) (lost|unheard|late)(?: (\d+))?)$/;
	@{$net}{qw(mode delay most trap)} = ($1 // $2 // $4 // $6, ($3 // $8 // 0) / 1000, $5 // 0, $7 // '');
	$_->{carried} = 0 for map { @{ $_->{flows} } } @{ $net->{links} };
	_reset(splice @{ $net->{orphans} });
	return 'done' if $net->{mode} ne 'cut' && $net->{mode} ne 'orphan';
	for my $link (splice @{ $net->{links} })
	{
		_reset($link->{near});
		if ($net->{mode} eq 'cut')
		{
			_reset($link->{far});
		}
		else
		{
			push @{ $net->{orphans} }, $link->{far};
		}
	}
	return 'done';
}

sub _passes
{
	my ($net, $flow) = @_;
	return !$flow->{up} || $flow->{carried} < $net->{most} if $net->{mode} eq 'choke';
	return $net->{mode} =~ /^(?:pass|slow|trap)$/ || ($net->{mode} eq 'mute' && $flow->{up});
}

# One link's turn.
sub _serve
{
	my ($net, $link, $ready, $takes) = @_;
	for my $flow (@{ $link->{flows} })
	{
		_read($flow, $net->{mode} eq 'slow' ? $net->{delay} : 0) if $ready->{ $flow->{from} };
		return _spring($net, $link, $flow) if $net->{mode} eq 'trap' && _commits_move($flow);
		_write($flow) if $takes->{ $flow->{to} } && @{ $flow->{pieces} } && $flow->{pieces}[0][0] <= time;
		next if !$flow->{ended} || $flow->{shut} || @{ $flow->{pieces} } || !_passes($net, $flow);
		shutdown $flow->{to}, SHUT_WR;
		$flow->{shut} = 1;
	}
	if (grep { $_->{broken} && _passes($net, $_) } @{ $link->{flows} })
	{
		_reset(@{$link}{qw(near far)});
		$link->{over} = 1;
	}
	elsif (!grep { !$_->{shut} } @{ $link->{flows} })
	{
		close $_ for @{$link}{qw(near far)};
		$link->{over} = 1;
	}
	return;
}

# The last that came is a simple query COMMIT, in a session that moves authority.
sub _commits_move
{
	my ($flow) = @_;
	return $flow->{moves} && @{ $flow->{pieces} } && $flow->{pieces}[-1][1] =~ /Q\0\0\0\x0bCOMMIT\0$/;
}

sub _spring
{
	my ($net, $link, $flow) = @_;
	_reset($link->{near});
	if ($net->{trap} eq 'lost')
	{
		_reset($link->{far});
	}
	else
	{
		push @{ $net->{late} }, { due => time + $net->{delay}, far => $link->{far}, data => join '', map { $_->[1] } @{ $flow->{pieces} } };
	}
	$link->{over} = 1;
	$net->{sprung}++;
	$net->{mode} = 'pass';
	return;
}

sub _deliver_late
{
	my ($net) = @_;
	for my $late (grep { $_->{due} <= time } @{ $net->{late} })
	{
		# should the far end have given up meanwhile, there is nobody to hear it
		syswrite $late->{far}, $late->{data};
		close $late->{far};
		$late->{over} = 1;
	}
	@{ $net->{late} } = grep { !$_->{over} } @{ $net->{late} };
	return;
}

sub _accept
{
	my ($net, $listener, $to) = @_;
	my $near = $listener->accept or return;
	my $far = $net->{mode} eq 'cut' || $net->{mode} eq 'orphan'
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
	my @flows = map { { from => $_->[0], to => $_->[1], up => $_->[2], pieces => [], kept => 0, carried => 0 } }
	  [ $near, $far, 1 ], [ $far, $near, 0 ];
	push @{ $net->{links} }, { near => $near, far => $far, flows => \@flows };
	return;
}

sub _read
{
	my ($flow, $delay) = @_;
	my $got = sysread $flow->{from}, my $data, 65536;
	if ($got)
	{
		push @{ $flow->{pieces} }, [ time + $delay, $data ];
		$flow->{moves} = 1 if $data =~ /SELECT rehome_source\.set_fence\(/;
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
		$flow->{carried} += $sent;
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
