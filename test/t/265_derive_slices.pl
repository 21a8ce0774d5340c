# Data that one slice derives from what another moves: changes that come while
# the query is running, or while a note is being taken away, are derived too.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair();
my $target = $pair->target;
my @lock = (4711, 1);

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }
sub stale { my ($name) = @_; return call("SELECT stale_since IS NOT NULL FROM rehome.derived WHERE name = '$name'") }
sub total { return call('SELECT qty FROM new.total') }

$pair->sql_source(q{
	CREATE SCHEMA old;
	CREATE TABLE old.line (id integer PRIMARY KEY, qty integer);
	CREATE TABLE old.track (id integer PRIMARY KEY);
	INSERT INTO old.line SELECT i, i FROM generate_series(1, 4) AS i;
	INSERT INTO old.track VALUES (1);});
# the query waits after its snapshot has been taken, while somebody else holds the lock
call(qq{
	CREATE SCHEMA new;
	CREATE TABLE new.line (id integer PRIMARY KEY, qty integer);
	CREATE TABLE new.track (id integer PRIMARY KEY);
	CREATE TABLE new.total (one integer PRIMARY KEY, qty bigint);
	CREATE FUNCTION new.waits() RETURNS integer STABLE LANGUAGE plpgsql AS
	'BEGIN PERFORM pg_advisory_xact_lock_shared($lock[0], $lock[1]); RETURN 1; END';});
$pair->import_foreign_schema('old', 'old');
call(q{
	SELECT rehome.create_migration('m', 'src', 'two slices');
	SELECT rehome.add_slice('m', 'a');
	SELECT rehome.add_slice('m', 'b');
	SELECT rehome.add_table('m', 'old.track', 'new.track', slice => 'a');
	SELECT rehome.add_table('m', 'old.line', 'new.line', slice => 'b');
	SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT new.waits() AS one, sum(qty) AS qty FROM new.line', slice => 'a');});
call(q{CALL rehome.copy('m', 'b')});

# Runs the call until the query waits; meanwhile a batch of slice b moves a change.
sub meanwhile
{
	my ($name, $sql, $change) = @_;
	my $holder = hold_lock($target, @lock, $pair->dbname);
	my $deriving = start_psql($target, $sql, dbname => $pair->dbname);
	ok(wait_for_lock_waiter($target, @lock, $pair->dbname), "$name: the query is running");
	$pair->sql_source($change);
	call(q{CALL rehome.sync('m', 'b')});
	$holder->quit;
	is(finish_psql($deriving)->{sqlstate}, '00000', "$name: it ends");
	is(stale('total'), 't', "$name: what was moved meanwhile is noted");
	call(q{SELECT rehome.refresh_derived('m')});
	is(stale('total'), 'f', "$name: and derived");
	is(total(), call('SELECT sum(qty) FROM new.line'), "$name: it is right");
	return;
}

meanwhile('copy', q{CALL rehome.copy('m', 'a')}, 'UPDATE old.line SET qty = 10 WHERE id = 1');
meanwhile('refresh', q{SELECT rehome.refresh_derived('m', 'total')}, 'UPDATE old.line SET qty = 20 WHERE id = 2');

# a note that everything is to be derived is there, and is being taken away
$pair->sql_source('UPDATE old.line SET qty = 30 WHERE id = 3');
call(q{CALL rehome.sync('m', 'b')});
is(stale('total'), 't', 'a batch of the other slice notes');
meanwhile('a note in the way', q{SELECT rehome.refresh_derived('m', 'total')}, 'UPDATE old.line SET qty = 40 WHERE id = 4');
call(q{CALL rehome.cutover('m', 'a')});
is(total(), 100, 'cut over, it is right');

# ---------------------------------------------------------------------------
# A copy that breaks off twice, the second time after it has caught up.

$pair->sql_source(q{CREATE TABLE old.page (id integer PRIMARY KEY, n integer); INSERT INTO old.page VALUES (1, 1)});
call(q{CREATE TABLE new.page (id integer PRIMARY KEY, n integer); CREATE TABLE new.pages (one integer PRIMARY KEY, n bigint)});
$pair->import_foreign_schema('old', 'old', 'page');
call(q{
	SELECT rehome.create_migration('o', 'src', 'breaks off');
	SELECT rehome.add_table('o', 'old.page', 'new.page');
	SELECT rehome.add_derived('o', 'pages', 'new.pages', 'SELECT 1 AS one, sum(n) AS n FROM new.page', '{"new.page": "SELECT 1"}');});
for my $point (qw(chunks-planned caught-up))
{
	my $copy = start_psql($target, q{CALL rehome.copy('o')}, dbname => $pair->dbname, debug_point => "$point:error");
	is(finish_psql($copy)->{sqlstate}, 'XX000', "the copy breaks off: $point");
	$pair->sql_source(q{INSERT INTO old.page SELECT max(id) + 1, 10 FROM old.page});
}
call(q{CALL rehome.copy('o')});
is(call('SELECT n FROM new.pages'), 21, 'what came since it had caught up is derived');
is(call(q{SELECT bool_and(ok) FROM rehome.verify('o')}), 't', 'it is what the query gives');

done_testing();
