# After the cutover the login that connects to the source is renamed, or is another
# one: changes are brought back all the same, past a fence that lets nobody else
# pass; and who may not take over is told what is missing.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(role => 1, target_conf => "rehome.naptime = 50ms\nrehome.retry_max = 300ms");
my ($source, $target) = ($pair->source, $pair->target);
my $tables = q{
	CREATE TABLE item (id int PRIMARY KEY, v text);
	CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part DEFAULT;
	CREATE TABLE late (id int PRIMARY KEY, v text)};
$pair->sql_source($tables);
$pair->sql_target($tables);
$pair->sql_source(join ';', map { "INSERT INTO $_ SELECT i, 'a' FROM generate_series(1, 20) i" } qw(item part late));
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(item part late));
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'another login');
	SELECT rehome.add_table('m', format('src.%I', t)::regclass, t::regclass) FROM unnest(ARRAY['item', 'part', 'late']) AS t;
	CALL rehome.start('m')});
ok($pair->wait_for_state('m', 'syncing'), 'in sync');
$pair->sql_target(q{CALL rehome.cutover('m')});

# What is written at the target gets back, and is not taken for a change of the source's.
my $n = 0;
sub comes_back
{
	my ($name, @tables) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$n++;
	my $from = $pair->sql_source('SELECT txid_current()');
	$pair->sql_target(join ';', map { "UPDATE $_ SET v = 'v$n' WHERE id = 1" } @tables);
	ok(wait_until($source, 'SELECT ' . join(' AND ', map { "(SELECT v = 'v$n' FROM $_ WHERE id = 1)" } @tables), 20), "$name: changes are brought back")
	  or diag($pair->sql_target('SELECT error FROM rehome.status'));
	my @logs = split /\n/, $pair->sql_source(q{SELECT format('rehome_source.%I', relname) FROM pg_class WHERE relname LIKE 'change%' AND relkind = 'r'});
	is($pair->sql_source(join ' UNION ALL ', map { "SELECT op FROM $_ WHERE xid > $from" } @logs), '', "$name: and are not noted there");
	return;
}

# All that is ours belongs to one role still.
sub belongs_to
{
	my ($role, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($pair->sql_source(q{
		SELECT string_agg(DISTINCT o::regrole::text, ',') FROM (
			SELECT relowner FROM pg_class WHERE relnamespace = 'rehome_source'::regnamespace
			UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'rehome_source'::regnamespace) AS x(o)}),
		$role, "$name: all at the source belongs to one role");
}

# Whether a role passes the fence in the way that we do.
sub is_refused
{
	my ($role, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(finish_psql(start_psql($source, q{
		BEGIN;
		SET LOCAL rehome_source.applying = 'on';
		INSERT INTO rehome_source.applying SELECT txid_current(), token, slice FROM rehome_source.slice;
		UPDATE item SET v = 'mine' WHERE id = 2;
		COMMIT}, user => $role))->{sqlstate}, $sqlstate, "$name: $role does not pass the fence");
}

sub login
{
	my ($role) = @_;
	$pair->sql_target("ALTER USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (SET user '$role', SET password 'secret')");
	$pair->sql_source(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome%'});
	return;
}

comes_back('as before', 'item', 'part');

# A role of another name is the same.
$pair->sql_source(q{ALTER ROLE rehome_src RENAME TO mover; ALTER ROLE mover PASSWORD 'secret'});
comes_back('renamed', 'item', 'part');
login('mover');
comes_back('renamed, and the mapping, too', 'item', 'part');
# and one that takes the old name is another
$pair->sql_source(q{CREATE ROLE rehome_src LOGIN PASSWORD 'secret' IN ROLE mover});
# as passwords are asked for
$ENV{PGPASSWORD} = 'secret';
is_refused('rehome_src', '25006', 'renamed');
belongs_to('mover', 'renamed');

# A second login, a member of the first.
$pair->sql_source(q{CREATE ROLE second LOGIN PASSWORD 'secret' IN ROLE mover});
login('second');
comes_back('second login', 'item', 'part');
comes_back('second login, the first time a table has something', 'late');
is_refused('mover', '25006', 'second login');
is_refused('rehome_src', '25006', 'second login');
is($pair->sql_source(q{SELECT DISTINCT role::regrole FROM rehome_source.captured UNION SELECT role::regrole FROM rehome_source.slice}), 'second', 'second login: it is known');
is((sqlstate_of($source, q{UPDATE item SET v = 'mine' WHERE id = 2}))[0], '25006', 'second login: nor does anybody');
like((sqlstate_of($source, q{UPDATE item SET v = 'mine' WHERE id = 2}))[3], qr/^Write to its new home/, 'second login: who is told where to go');
belongs_to('mover', 'second login');

# One that is no member.
$pair->sql_source(q{CREATE ROLE third LOGIN PASSWORD 'secret'});
$pair->grant_source('public', 'third');
login('third');
{
	my ($sqlstate, $message, undef, $hint) = sqlstate_of($target, q{CALL rehome.sync('m')});
	is($sqlstate, '42501', 'no member: it is refused') or diag($message);
	like($hint, qr/GRANT that role to the one of the user mapping/, 'no member: with a hint what to do');
	ok(wait_until($target, q{SELECT error LIKE '%permission denied%rehome_source%' FROM rehome.status}), 'no member: the status says so');
}
is_refused('third', '42501', 'no member');
$pair->sql_source('GRANT mover TO third');
comes_back('a member now', 'item', 'part', 'late');

# And back, with what the others have made; and all over again.
login('mover');
comes_back('the first login again', 'item', 'part', 'late');
$pair->sql_target(q{CALL rehome.rollback('m')});
same_content($pair, [qw(item part late)], 'rolled back');
login('second');
$pair->sql_source(q{UPDATE item SET v = 'w' WHERE id = 3; INSERT INTO late VALUES (100, 'w')});
$pair->sql_target(q{CALL rehome.cutover('m')});
is_refused('mover', '25006', 'cut over by the second login');
comes_back('cut over by the second login', 'item', 'part', 'late');
$pair->sql_target(q{CALL rehome.rollback('m')});
same_content($pair, [qw(item part late)], 'rolled back by the second login');
$pair->sql_target(q{CALL rehome.cancel('m')});
is($pair->sql_source(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'rehome_source'}), 0, 'nothing is left at the source');

done_testing();
