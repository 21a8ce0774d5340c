# A source that does not take what is sent to it, or does not answer: whoever waits
# for it can be cancelled, but in the one place where nobody would know afterwards
# who has authority.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use Proxy;
use RehomeTest;

my $proxy = Proxy->new;
my $pair = new_pair(tcp => 1, server_options => { port => $proxy->port }, target_conf => 'rehome.freeze_timeout = 60s');
my ($source, $target) = ($pair->source, $pair->target);
$proxy->start($source->port, "$PostgreSQL::Test::Utils::log_path/135_no_answer_proxy.log");

my $tables = 'CREATE SCHEMA app; CREATE TABLE app.item (id int PRIMARY KEY, qty int NOT NULL)';
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source('INSERT INTO app.item SELECT i, i FROM generate_series(1, 100) i');
$pair->import_foreign_schema('app', 'app_source');
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a source that does not answer');
	SELECT rehome.add_table('m', 'app_source.item', 'app.item')});
$pair->sql_target(q{CALL rehome.copy('m')});

# A statement of which the network takes only the beginning.
{
	$pair->sql_target(q{SELECT rehome.add_check('m', 'long', 'business', 'SELECT 1 AS one /* ' || repeat('x', 30000000) || ' */', 'SELECT 1 AS one')});
	is($pair->sql_target(q{SELECT status FROM rehome.run_checks('m')}), 'passed', 'a long statement gets there');
	for my $how ('cancelled', 'terminated', 'timed out')
	{
		$proxy->set('choke 1000000');
		my $call = start_psql($target, ($how eq 'timed out' ? q{SET statement_timeout = '4s'; } : '') . q{SELECT status FROM rehome.run_checks('m')}, name => 'checker');
		my $limit = time + $PostgreSQL::Test::Utils::timeout_default;
		Time::HiRes::usleep(10_000) until $proxy->choked || time > $limit;
		is($proxy->choked, 1, "$how: the network takes no more of it");
		# one that is timed out may have ended by now
		my $call_of = { cancelled => 'pg_cancel_backend', terminated => 'pg_terminate_backend' }->{$how};
		$pair->sql_target("SELECT $call_of(pid) FROM pg_stat_activity WHERE application_name = 'checker'") if defined $call_of;
		my $ended = wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'checker' AND state = 'active')}, 20);
		ok($ended, "$how: it ends all the same");
		$proxy->set('pass');
		like(finish_psql($call)->{sqlstate}, $how eq 'terminated' ? qr/57P01|08006/ : qr/57014/, "$how: and says so");
	}
	is($pair->sql_target(q{SELECT status FROM rehome.run_checks('m')}), 'passed', 'a long statement gets there again');
	$pair->sql_target(q{SELECT rehome.drop_check('m', 'long')});
}

# A cancel while the source commits comes too late: its answer is waited for, and
# the local commit follows.
for my $how ('cancelled', 'timed out')
{
	my $lock = hold_lock($target, debug_lock());
	my $begin = $pair->sql_target('SELECT clock_timestamp()');
	my $call = start_psql($target, ($how eq 'timed out' ? q{SET statement_timeout = '10s'; } : '') . q{CALL rehome.cutover('m')},
		name => 'switcher', debug_point => 'before-remote-commit:wait');
	my $pid = wait_for_lock_waiter($target, debug_lock());
	is($pid, $pair->sql_target(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'switcher'}), "cutover $how: it is about to commit at the source");
	$proxy->set('mute');
	$lock->quit;
	ok(wait_until($source, q{SELECT authority = 'target' FROM rehome_source.slice}), "cutover $how: the source has committed, and is not heard");
	$pair->sql_target("SELECT pg_cancel_backend($pid)") if $how eq 'cancelled';
	# longer than the limit, or for a while
	my $now = $pair->sql_target('SELECT clock_timestamp()');
	my $until = $how eq 'timed out' ? "'$begin'::timestamptz + '12 s'" : "'$now'::timestamptz + '3 s'";
	wait_until($target, "SELECT clock_timestamp() > $until");
	ok(psql_running($call), "cutover $how: the answer is waited for");
	$proxy->set('pass');
	my $result = finish_psql($call);
	is($result->{sqlstate}, '57014', "cutover $how: then it ends");
	unlike($result->{stderr}, qr/WARNING/, "cutover $how: and nothing is in doubt") or diag($result->{stderr});
	is($pair->sql_target('SELECT state FROM rehome.status'), 'cut_over', "cutover $how: it has succeeded");
	is((sqlstate_of($target, 'UPDATE app.item SET qty = qty + 1 WHERE id = 1'))[0], '00000', "cutover $how: the target takes writes");
	is((sqlstate_of($source, 'UPDATE app.item SET qty = qty + 1 WHERE id = 1'))[0], '25006', "cutover $how: the source does not");
	$pair->sql_target(q{CALL rehome.rollback('m')});
	is($pair->sql_target('SELECT state FROM rehome.status'), 'syncing', "cutover $how: and it can be rolled back");
}
same_content($pair, ['app.item'], 'the same on both sides');

done_testing();
