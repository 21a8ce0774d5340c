# What the torture test relies on, by itself: that its proxy breaks a connection in
# the way it was told, and that its reading of the clients' histories finds what is
# wrong with them.
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use Proxy;
use TortureHistory;
use TortureProcess;

my $limit = $PostgreSQL::Test::Utils::timeout_default;
my $log   = "$PostgreSQL::Test::Utils::log_path/190_torture_tools.log";

# ---------------------------------------------------------------------------
# The proxy, before a listener of ours: both ends of a connection are here.
my $listener = IO::Socket::INET->new(Listen => 8, LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp')
  or die "cannot listen: $!";
my $proxy = Proxy->new;
$proxy->start($listener->sockport, $log);

sub connection
{
	my $near = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $proxy->port, Proto => 'tcp') or die "cannot connect: $!";
	IO::Select->new($listener)->can_read($limit) or die 'the proxy does not connect';
	return ($near, scalar $listener->accept);
}

# What comes within so long; 'end' when the other end has closed, 'reset', or
# 'nothing'.
sub comes
{
	my ($socket, $within) = @_;
	return 'nothing' unless IO::Select->new($socket)->can_read($within);
	my $got = sysread $socket, my $data, 4096;
	return defined $got ? ($got ? $data : 'end') : $!{ECONNRESET} ? 'reset' : "$!";
}

sub say_to { my ($socket, $what) = @_; syswrite($socket, $what) == length $what or die "cannot write: $!"; return }

# Long enough for what is to come, in vain, where nothing may come.
my $moment = 0.3;

my ($near, $far) = connection();
say_to($near, 'a');
is(comes($far, $limit), 'a', 'pass: what is sent arrives');
say_to($far, 'b');
is(comes($near, $limit), 'b', 'pass: so does the answer');

$proxy->set('stall');
say_to($near, 'c');
say_to($far, 'd');
is(comes($far, $moment), 'nothing', 'stall: nothing arrives');
is(comes($near, $moment), 'nothing', 'stall: no answer comes');
$proxy->set('mute');
is(comes($far, $limit), 'c', 'mute: what is sent arrives');
is(comes($near, $moment), 'nothing', 'mute: no answer comes');
$proxy->set('pass');
is(comes($near, $limit), 'd', 'pass again: the answer comes');

$proxy->set('slow 400');
my $since = time;
say_to($near, 'e');
is(comes($far, $limit), 'e', 'slow: it arrives');
cmp_ok(time - $since, '>=', 0.4, 'slow: so much later');

{
	my ($client, $server) = connection();
	$proxy->set('stall');
	close $server;
	is(comes($client, $moment), 'nothing', 'stall: that one end has closed is not told');
	$proxy->set('pass');
	is(comes($client, $limit), 'end', 'pass again: it is, though nobody says anything');
}

$proxy->set('orphan');
is(comes($near, $limit), 'reset', 'orphan: one end is told');
is(comes($far, $moment), 'nothing', 'orphan: the other one is not');
$proxy->set('pass');
is(comes($far, $limit), 'reset', 'after it, the other one is, too');

($near, $far) = connection();
$proxy->set('cut');
is(comes($near, $limit), 'reset', 'cut: one end is told');
is(comes($far, $limit), 'reset', 'cut: so is the other');
my $refused = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $proxy->port, Proto => 'tcp');
is(!$refused ? 'reset' : comes($refused, $limit), 'reset', 'cut: nobody new gets through');
$proxy->set('pass');

# The traps, for a COMMIT in libpq's protocol.
my ($move, $commit) = ("Q\0\0\0\x30SELECT rehome_source.set_fence('t', 1, true, 'x')\0", "Q\0\0\0\x0bCOMMIT\0");
($near, $far) = connection();
$proxy->set('trap lost');
say_to($near, $commit);
is(comes($far, $limit), $commit, 'trap: the COMMIT of a session that moves nothing arrives');
say_to($near, $move);
is(comes($far, $limit), $move, 'trap: so does what moves authority');
is($proxy->sprung, 0, 'trap: it has not sprung');
say_to($near, $commit);
is(comes($near, $limit), 'reset', 'trap lost: with the COMMIT the connection breaks');
is(comes($far, $limit), 'reset', 'trap lost: it does not arrive');
is($proxy->sprung, 1, 'trap lost: it has sprung');
for my $trap ([ 'unheard', 0 ], [ 'late 500', 0.5 ])
{
	my ($how, $after) = @$trap;
	($near, $far) = connection();
	$proxy->set("trap $how");
	say_to($near, $move);
	is(comes($far, $limit), $move, "trap $how: what moves authority arrives");
	$since = time;
	say_to($near, $commit);
	is(comes($near, $limit), 'reset', "trap $how: with the COMMIT the connection breaks");
	is(comes($far, $limit), $commit, "trap $how: the COMMIT arrives");
	cmp_ok(time - $since, '>=', $after, "trap $how: when it should");
	is(comes($far, $limit), 'end', "trap $how: and nothing after it");
}
is($proxy->finish, 0, 'the proxy ends with its line');

# ---------------------------------------------------------------------------
# The histories: made up, a client each, of "seq side begin end outcome register
# version", and what is said to be there.
my $histories = 0;

sub complaints
{
	my ($name, $lines, $rows, $losses, $expected) = @_;
	my $file = "$PostgreSQL::Test::Utils::log_path/190_history_" . ++$histories;
	append_to_file($file, join '', map { "$_\n" } @$lines);
	# the source, from 100 on the target, from 200 on the source again
	my (undef, @wrong) = TortureHistory->new($file)->check([ map { [ split / / ] } @$rows ],
		[ [ 0, 'source' ], [ 100, 'target' ], [ 200, 'source' ] ], $losses);
	is_deeply(\@wrong, $expected, $name);
	return;
}

my @well = (
	'1 source 10 11 committed 1 1',
	'2 source 99 101 committed 1 2',
	'3 target 99.5 103 committed 1 3',
	'5 target 150 151 failed 2 1',
	'7 target 199 200.5 unknown 1 4',
	'8 source 210 211 committed 1 5');
my @there = ('1 1 source 1 1', '1 2 source 1 2', '1 3 target 1 3', '1 7 target 1 4', '1 8 source 1 5');
complaints('a history without a fault', \@well, \@there, {}, []);
complaints('what is unknown may be missing', \@well, [ grep { !/^1 7/ } @there ], {}, []);
complaints('a commit that is lost', \@well, [ grep { !/^1 3/ } @there ], {},
	['transaction 3 of client 1 is lost: committed on the target, between 99.500000 and 103.000000']);
complaints('one that a crash may take', \@well, [ grep { !/^1 3/ } @there ], { target => [ [ 98, 104 ] ] }, []);
complaints('a crash of the other side takes nothing', \@well, [ grep { !/^1 3/ } @there ], { source => [ [ 98, 104 ] ] },
	['transaction 3 of client 1 is lost: committed on the target, between 99.500000 and 103.000000']);
complaints('what failed is there', \@well, [ @there, '1 5 target 2 1' ], {}, ['transaction 5 of client 1 is there, but failed']);
complaints('what was never committed is there', \@well, [ @there, '1 6 target 2 1' ], {},
	['transaction 6 of client 1 is there, and did not come to its commit, or not in this round']);
complaints('another one than was committed is there', \@well, [ (grep { !/^1 8/ } @there), '1 8 source 1 6' ], {},
	['transaction 8 of client 1 is there as source 1 6, but was source 1 5']);
complaints('a commit at the source while the target had authority', [ @well, '9 source 120 121 committed 2 1' ], [ @there, '1 9 source 2 1' ], {},
	['transaction 9 of client 1 was committed on the source between 120.000000 and 121.000000, when the target had authority: from 100 to 200']);
complaints('a commit at the target before it had authority', [ @well, '9 target 50 51 committed 2 1' ], [ @there, '1 9 target 2 1' ], {},
	['transaction 9 of client 1 was committed on the target between 50.000000 and 51.000000, when the source had authority: from 0 to 100']);
complaints('a commit that did not see the one before it', [ @well, '9 source 300 301 committed 1 3' ], [ (grep { !/^1 3/ } @there), '1 9 source 1 3' ], {},
	[
		'transaction 3 of client 1 is lost: committed on the target, between 99.500000 and 103.000000',
		'transaction 8 of client 1 made version 5 of register 1 on the source between 210.000000 and 211.000000, before transaction 9 of client 1 made version 3 on the source between 300.000000 and 301.000000'
	]);

# ---------------------------------------------------------------------------
# A process that dies is noticed.
my $mortal = TortureProcess->spawn('mortal', $log, sub { $_[0]->next_line($limit); die "of this\n" });
ok(!eval { $mortal->ask('live', $limit); 1 }, 'a process that died does not answer');
like($@, qr/mortal \(\d+\): of this/, 'and its last words are told');
is($mortal->finish, 1, 'and its status is');

done_testing();
