# A large batch: while one table is applied, the source is asked for the next one
# in a second session on the same snapshot.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(
	role        => 1,
	source_conf => 'log_statement = all',
	target_conf => "rehome.lock_timeout = '100ms'\nrehome.lock_retries = 100");
my ($source, $target) = ($pair->source, $pair->target);

# In the order of their turns: the larger the earlier.  The values of c and d are
# unique besides the key, so that whether their partitions are the same is asked at
# once; a filter of b has it asked for what is gone.
my %rows = (a => 12_000, b => 9_000, c => 8_000, d => 7_000, e => 6_000);
my @names = sort keys %rows;
my @content = map { "app.$_" } @names;

sub statements
{
	my ($from, $pattern) = @_;
	return scalar(() = PostgreSQL::Test::Utils::slurp_file($source->logfile, $from) =~ /$pattern/g);
}

sub second_sessions { return statements($_[0], qr/statement: SET TRANSACTION SNAPSHOT/) }
sub given_up        { return statements($_[0], qr/pg_cancel_backend/) }

$pair->sql_source('CREATE SCHEMA app');
$pair->sql_source("CREATE TABLE app.$_ (id int PRIMARY KEY, n int, note text)"
	. (/[cd]/ ? "PARTITION BY RANGE (id); CREATE TABLE app.${_}_early PARTITION OF app.$_ FOR VALUES FROM (MINVALUE) TO (1000000)" : '')) for @names;
$pair->sql_target('CREATE SCHEMA app');
$pair->sql_target("CREATE TABLE app.$_ (id int PRIMARY KEY, n int" . (/[cd]/ ? ' UNIQUE' : '') . ', note text)') for @names;
$pair->sql_source("INSERT INTO app.$_ SELECT i, i, repeat('x', 50) FROM generate_series(1, $rows{$_}) i") for @names;
$pair->grant_source('app');
$pair->import_foreign_schema('app', 'far');
my $role = $pair->sql_target(q{SELECT (SELECT option_value FROM pg_options_to_table(umoptions) WHERE option_name = 'user') FROM pg_user_mappings});
$pair->sql_target(q{
	SELECT rehome.create_migration('m', 'src', 'a test of large batches');
	SELECT rehome.add_table('m', 'far.' || t, 'app.' || t, filter => CASE t WHEN 'b' THEN 'n IS NOT NULL' END)
	  FROM unnest('{a,b,c,d,e}'::text[]) AS t;
	CALL rehome.copy('m');
	ANALYZE;
});

# Rows that change, are inserted, deleted, and whose keys change, in every table.
sub write_all
{
	for my $name (@names)
	{
		$pair->sql_source(qq{
			UPDATE app.$name SET note = coalesce(note, '') || '.';
			DELETE FROM app.$name WHERE id % 10 = 3;
			UPDATE app.$name SET id = -id WHERE id % 10 = 4;
			INSERT INTO app.$name SELECT i, -1000000 - i FROM generate_series((SELECT max(id) + 1 FROM app.$name), (SELECT max(id) + 1000 FROM app.$name)) i;
		});
	}
	return;
}

sub in_sync
{
	my ($name) = @_;
	my $result = finish_psql(start_psql($target, q{CALL rehome.sync('m')}));
	is($result->{sqlstate}, '00000', "$name: sync ends well") or diag($result->{stderr});
	same_content($pair, \@content, "$name: the same content on both sides");
	is($pair->sql_source(q{SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome%'}), 0, "$name: no session stays at the source");
	return;
}

# Stops a sync after it has read its first table, calls the code, and lets go.
sub after_the_first
{
	my ($code) = @_;
	my $lock = hold_lock($target, debug_lock());
	my $sync = start_psql($target, q{CALL rehome.sync('m')}, debug_point => 'batch-read:wait');
	wait_for_lock_waiter($target, debug_lock()) or BAIL_OUT('sync does not come to its first table');
	$code->();
	$lock->quit;
	return $sync;
}

{
	my $from = -s $source->logfile;
	write_all();
	in_sync('a large batch');
	is(second_sessions($from), 1, 'it takes one second session');
	is(given_up($from), 0, 'and asks for nothing in vain');

	$from = -s $source->logfile;
	$pair->sql_source("UPDATE app.$_ SET note = 'small' WHERE id = 1") for @names;
	in_sync('a small batch');
	is(second_sessions($from), 0, 'a small batch takes none');
}

# A source that has no room for it.
{
	my $from = -s $source->logfile;
	$pair->sql_source("ALTER ROLE $role CONNECTION LIMIT 1");
	write_all();
	in_sync('room for one session');
	is(second_sessions($from), 0, 'it goes on without');
	cmp_ok(statements($from, qr/too many connections for role/), '>', 0, 'having tried');
	$pair->sql_source("ALTER ROLE $role CONNECTION LIMIT -1");
}

# None of the tables can be truncated meanwhile.  One that gets another partition
# has the batch begin again, with another table asked for in vain: in the second
# session, or in the first.
for my $name (qw(c d))
{
	my $from = -s $source->logfile;
	write_all();
	my $sync = after_the_first(sub {
		is((sqlstate_of($source, "SET lock_timeout = '100ms'; TRUNCATE app.$_"))[0], '55P03', "app.$_ cannot be truncated") for @names;
		$pair->sql_source(qq{
			CREATE TABLE app.${name}_late (LIKE app.$name INCLUDING ALL);
			GRANT ALL ON app.${name}_late TO $role;
			INSERT INTO app.${name}_late SELECT i, i FROM generate_series(1000001, 1000500) i;
			ALTER TABLE app.$name ATTACH PARTITION app.${name}_late FOR VALUES FROM (1000000) TO (2000000)});
	});
	is(finish_psql($sync)->{sqlstate}, '00000', "$name has another partition: sync ends well");
	is(given_up($from), 1, "$name has another partition: what was asked for in vain was given up");
	same_content($pair, \@content, "$name has another partition: the same content on both sides");
	$pair->sql_source("ALTER TABLE app.$name DETACH PARTITION app.${name}_late; DROP TABLE app.${name}_late");
	in_sync("$name has lost it");
}

# One of them waits to be truncated: who comes later would wait behind it, and so
# comes no second session.
{
	my $from = -s $source->logfile;
	my $truncate;
	write_all();
	my $sync = after_the_first(sub {
		$truncate = start_psql($source, 'TRUNCATE app.e', name => 'truncater');
		ok(wait_until($source, q{SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE application_name = 'truncater'}), 'TRUNCATE waits for the batch');
	});
	my $result = finish_psql($sync);
	is($result->{sqlstate}, '00000', 'TRUNCATE waits: sync ends well') or diag($result->{stderr});
	is(finish_psql($truncate)->{sqlstate}, '00000', 'TRUNCATE waits: and then it has its turn');
	in_sync('TRUNCATE waits');
	$pair->sql_source("INSERT INTO app.e SELECT i, i FROM generate_series(1, $rows{e}) i");
	in_sync('TRUNCATE waits, and rows again');
}

# A table that is truncated between the batch's snapshot and its lock.
for my $name (qw(c e))
{
	my $from = -s $source->logfile;
	write_all();
	my $session = $source->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe("BEGIN; TRUNCATE app.$name; INSERT INTO app.$name SELECT i, i FROM generate_series(1, 7000) i");
	my $sync = start_psql($target, q{SET rehome.lock_timeout = '60s'; CALL rehome.sync('m')});
	ok(wait_until($source, "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE application_name LIKE 'pg_rehome%' AND $pid = ANY (pg_blocking_pids(a.pid)))"),
		"$name truncated: sync waits for it");
	$session->query_safe('COMMIT');
	$session->quit;
	is(finish_psql($sync)->{sqlstate}, '00000', "$name truncated: sync ends well");
	is(statements($from, qr/statement: BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL lock_timeout = 60000/), 3,
		"$name truncated: it has begun again, and taken one second session");
	same_content($pair, \@content, "$name truncated: the same content on both sides");
	in_sync("$name truncated");
}

# A target that is locked, for a while: nothing is asked for before it is had.
{
	my $from = -s $source->logfile;
	write_all();
	my $blocker = $target->background_psql('postgres');
	$blocker->query_safe('BEGIN; LOCK TABLE app.c IN SHARE MODE');
	my $sync = start_psql($target, q{CALL rehome.sync('m')});
	ok(wait_until($target, q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'app.c'::regclass AND NOT granted)}), 'it waits for a target');
	is($target->safe_psql('postgres', q{SELECT string_agg(DISTINCT relation::regclass::text, ' ') FROM pg_locks WHERE relation = ANY ('{app.a,app.b,app.c,app.d,app.e}'::regclass[])
		AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')}),
		'app.c', 'with no other in hand');
	is(statements($from, qr/COPY /), 0, 'nor having asked for rows');
	$blocker->query_safe('COMMIT');
	$blocker->quit;
	is(finish_psql($sync)->{sqlstate}, '00000', 'locked target: sync ends well');
	cmp_ok(statements($from, qr/COPY /), '>', 0, 'locked target: then it has asked');
	in_sync('locked target');
}

# A row that the target refuses, while the next table is on its way.
{
	write_all();
	$pair->sql_target('ALTER TABLE app.a ADD CONSTRAINT short CHECK (length(note) < 40) NOT VALID');
	is((sqlstate_of($target, q{CALL rehome.sync('m')}))[0], '23514', 'a refused row: sync says so');
	ok(wait_until($source, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome%')}), 'and nothing stays open at the source');
	$pair->sql_target('ALTER TABLE app.a DROP CONSTRAINT short');
	in_sync('a refused row');
}

done_testing();
