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
	CREATE TABLE new.rate (id integer PRIMARY KEY);
	SELECT rehome.add_derived('m', 'total', 'new.total', 'SELECT new.waits() AS one, sum(qty) AS qty FROM new.line', '{"new.rate": null}', slice => 'a');});
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
# what is not derived before the cutover is noted once, not with each batch
my $noted = q{SELECT count(*) FROM rehome.derivation_pending};
for my $qty (50 .. 53)
{
	$pair->sql_source("UPDATE old.line SET qty = $qty WHERE id = 4");
	call(q{CALL rehome.sync('m', 'b')});
	is(call($noted), 1, "there is one note: $qty");
}
my $long = $target->background_psql($pair->dbname);
$long->query_safe(q{BEGIN; INSERT INTO new.rate VALUES (1)});
is(call($noted), 1, 'there is one note, which somebody relies on who is not done');
call(q{SELECT rehome.refresh_derived('m')});
is(stale('total'), 't', '... so it is not taken away');
$long->query_safe('COMMIT');
$long->quit;
call(q{SELECT rehome.refresh_derived('m')});
is(stale('total'), 'f', '... before he is');
is(total(), call('SELECT sum(qty) FROM new.line'), 'it is right');
$pair->sql_source('UPDATE old.line SET qty = 40 WHERE id = 4');
call(q{CALL rehome.sync('m', 'b')});
call(q{CALL rehome.cutover('m', 'a')});
is(total(), 100, 'cut over, it is right');

# ---------------------------------------------------------------------------
# What a change touches is asked for while others write as well, and neither
# sees the other: whoever comes last, nothing is forgotten.

$pair->sql_source(q{
	CREATE TABLE old.artist (id integer PRIMARY KEY, name text);
	CREATE TABLE old.album (id integer PRIMARY KEY, artist integer);
	CREATE TABLE old.person (id integer PRIMARY KEY, email text);
	INSERT INTO old.artist VALUES (1, 'one');
	INSERT INTO old.album VALUES (10, 1);
	INSERT INTO old.person VALUES (1, 'a'), (2, 'b');});
call(q{
	CREATE TABLE new.artist (id integer PRIMARY KEY, name text);
	CREATE TABLE new.album (id integer PRIMARY KEY, artist integer);
	CREATE TABLE new.sleeve (id integer PRIMARY KEY, name text);
	CREATE TABLE new.person (id integer PRIMARY KEY, email text);
	CREATE TABLE new.crosswalk (source_key integer PRIMARY KEY, canonical_key integer);
	CREATE TABLE new.merged (id integer PRIMARY KEY, email text);
	CREATE TABLE new.same (source_key integer PRIMARY KEY, match_value text);
	CREATE TABLE new.factor (id integer PRIMARY KEY, factor integer);
	CREATE TABLE new.priced (id integer PRIMARY KEY, price integer);
	INSERT INTO new.factor VALUES (1, 10);});
$pair->import_foreign_schema('old', 'old', qw(artist album person));
call(q{
	SELECT rehome.create_migration('n', 'src', 'two slices, and overrides');
	SELECT rehome.add_slice('n', 'artists');
	SELECT rehome.add_table('n', 'old.artist', 'new.artist', slice => 'artists');
	SELECT rehome.add_table('n', 'old.album', 'new.album');
	SELECT rehome.add_table('n', 'old.person', 'new.person');
	SELECT rehome.add_derived('n', 'sleeves', 'new.sleeve', 'SELECT b.id, a.name FROM new.album AS b JOIN new.artist AS a ON a.id = b.artist',
		'{"new.album": "SELECT t.id", "new.artist": "SELECT b.id FROM new.album AS b WHERE b.artist = t.id"}');
	SELECT rehome.add_identity('n', 'person', 'new.person', 'new.crosswalk', 'new.merged', 'email', overrides => 'new.same');
	SELECT rehome.add_derived('n', 'prices', 'new.priced', 'SELECT p.id, p.id * coalesce(f.factor, 1) AS price FROM new.person AS p LEFT JOIN new.factor AS f USING (id)',
		'{"new.person": "SELECT t.id", "new.factor": "SELECT t.id"}');
	CALL rehome.copy('n');
	CALL rehome.sync('n', 'main');});
is(call('SELECT id, name FROM new.sleeve'), '10|one', 'joined from both slices');

sub not_stale { return is(call(q{SELECT count(*) FROM rehome.derived WHERE migration = 'n' AND stale_since IS NOT NULL}), 0, "$_[0]: nothing is stale") }
sub right
{
	my ($name) = @_;
	not_stale($name);
	return is(call(q{SELECT bool_and(ok) FROM rehome.verify('n')}), 't', "$name: it is what the queries give");
}

# a batch of the other slice has asked before ours comes, and is committed after it
my $holder = hold_lock($target, debug_lock(), $pair->dbname);
$pair->sql_source(q{INSERT INTO old.artist VALUES (2, 'two')});
my $other = start_psql($target, q{CALL rehome.sync('n', 'artists')}, dbname => $pair->dbname, debug_point => 'batch-applied:wait');
ok(wait_for_lock_waiter($target, debug_lock(), $pair->dbname), 'the batch of the other slice is about to be committed');
$pair->sql_source(q{INSERT INTO old.album VALUES (20, 2)});
call(q{CALL rehome.sync('n', 'main')});
$holder->quit;
is(finish_psql($other)->{sqlstate}, '00000', '... and is, after ours');
call(q{CALL rehome.sync('n', 'main')});
is(call('SELECT id, name FROM new.sleeve WHERE id = 20'), '20|two', 'a row that both have a part of is derived');
right('two slices');

# the same with ours the last
$holder = hold_lock($target, debug_lock(), $pair->dbname);
$pair->sql_source(q{INSERT INTO old.album VALUES (30, 3)});
$other = start_psql($target, q{CALL rehome.sync('n', 'main')}, dbname => $pair->dbname, debug_point => 'batch-applied:wait');
ok(wait_for_lock_waiter($target, debug_lock(), $pair->dbname), 'our batch is about to be committed');
$pair->sql_source(q{INSERT INTO old.artist VALUES (3, 'three')});
call(q{CALL rehome.sync('n', 'artists')});
$holder->quit;
is(finish_psql($other)->{sqlstate}, '00000', '... and is, after the other');
call(q{CALL rehome.sync('n', 'main')});
is(call('SELECT id, name FROM new.sleeve WHERE id = 30'), '30|three', 'a row that both have a part of is derived');
right('two slices, ours the last');

# somebody states that two are the same while a batch brings one of them
my $editor = $target->background_psql($pair->dbname);
$editor->query_safe(q{BEGIN; INSERT INTO new.same VALUES (2, 'c')});
$pair->sql_source(q{INSERT INTO old.person VALUES (3, 'c')});
call(q{CALL rehome.sync('n', 'main')});
$editor->query_safe('COMMIT');
call(q{CALL rehome.sync('n', 'main')});
is(call('SELECT * FROM new.crosswalk ORDER BY 1'), "1|1\n2|2\n3|2", 'a row that came meanwhile is merged');
right('an override');

# two people state it, and neither sees the other
my $second = $target->background_psql($pair->dbname);
$editor->query_safe(q{BEGIN; INSERT INTO new.same VALUES (4, 'e')});
$second->query_safe(q{BEGIN; INSERT INTO new.same VALUES (3, 'e')});
$editor->query_safe('COMMIT');
$pair->sql_source(q{INSERT INTO old.person VALUES (4, 'd')});
call(q{CALL rehome.sync('n', 'main')});
$second->query_safe('COMMIT');
call(q{CALL rehome.sync('n', 'main')});
is(call('SELECT * FROM new.crosswalk ORDER BY 1'), "1|1\n2|2\n3|3\n4|3", 'both are merged');
right('two overrides');
$editor->query_safe(q{BEGIN; INSERT INTO new.same VALUES (1, 'f')});
$second->query_safe(q{BEGIN; UPDATE new.same SET match_value = 'f' WHERE source_key = 2; COMMIT});
$editor->query_safe('COMMIT');
call(q{CALL rehome.sync('n', 'main')});
is(call('SELECT * FROM new.crosswalk ORDER BY 1'), "1|1\n2|1\n3|3\n4|3", 'both are merged by one batch');
right('two overrides at once');
$second->quit;

# ... in a transaction that sees nothing of a batch before
$editor->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM new.person});
$pair->sql_source(q{INSERT INTO old.person VALUES (5, 'g')});
call(q{CALL rehome.sync('n', 'main')});
$editor->query_safe(q{UPDATE new.same SET match_value = 'g' WHERE source_key = 4; COMMIT});
call(q{CALL rehome.sync('n', 'main')});
is(call('SELECT * FROM new.crosswalk ORDER BY 1'), "1|1\n2|1\n3|3\n4|4\n5|4", 'a row that came before is merged');
right('an override of an old snapshot');

# the word that everything is to be derived comes when only a key seems to be
is(call('SELECT price FROM new.priced WHERE id = 1'), 10, 'priced');
call(q{INSERT INTO new.factor VALUES (2, 3)});
$editor->query_safe(q{BEGIN; LOCK TABLE rehome.derivation_pending IN EXCLUSIVE MODE; TRUNCATE new.factor});
my $sync = start_psql($target, q{SET rehome.lock_timeout = '60s'; CALL rehome.sync('n', 'main')}, dbname => $pair->dbname);
ok(wait_until($target, q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'rehome.derivation_pending'::regclass}, undef, $pair->dbname), 'the batch is about to take the notes');
$editor->query_safe('COMMIT');
is(finish_psql($sync)->{sqlstate}, '00000', '... and takes them');
is(call('SELECT string_agg(price::text, \' \' ORDER BY id) FROM new.priced'), '1 2 3 4 5', 'everything is derived');
right('everything');

# what is locked by somebody else keeps its derivation waiting, and no batch
for my $table (qw(new.priced new.factor))
{
	$editor->query_safe("BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
	$pair->sql_source(q{INSERT INTO old.person SELECT max(id) + 1, 'x' FROM old.person});
	like(finish_psql(start_psql($target, q{SET statement_timeout = '60s'; CALL rehome.sync('n', 'main')}, dbname => $pair->dbname))->{stderr},
		qr/WARNING:  55P03: could not derive "prices".*in sync/s, "$table is locked: it is derived later");
	$editor->query_safe('COMMIT');
	is(call(q{SELECT (SELECT count(*) FROM new.person) = (SELECT max(id) FROM new.person), count(*) FROM rehome.derived WHERE error IS NOT NULL}), 't|1', 'the batch is there');
	call(q{SELECT rehome.refresh_derived('n')});
	right($table);
}

# an input in a transaction that does not see the definition: to be tried again
$editor->quit;
my ($ready, $go) = (4711, 2);
my $gate = hold_lock($target, $ready, $go, $pair->dbname);
my $old = start_psql($target, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM new.person; SELECT pg_advisory_xact_lock_shared($ready, $go); INSERT INTO new.factor VALUES (9, 9); COMMIT", dbname => $pair->dbname);
ok(wait_for_lock_waiter($target, $ready, $go, $pair->dbname), 'a transaction has its snapshot');
call(q{CREATE TABLE new.factors (one integer PRIMARY KEY, n bigint);
	SELECT rehome.add_derived('n', 'factors', 'new.factors', 'SELECT 1 AS one, count(*) AS n FROM new.factor', '{"new.factor": "SELECT 1"}')});
$gate->quit;
is(finish_psql($old)->{sqlstate}, '40001', 'that is older than a derivation: it is to try again');

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
