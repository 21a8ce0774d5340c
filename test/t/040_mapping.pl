# Maps: columns renamed, computed, retyped, left out, keys computed, rows
# filtered; copied, synced, verified, cut over, and carried back by the inverses.
# What cannot be carried back is named before the cutover.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

# The sessions' time zone must not matter: text has to mean the same everywhere.
my $pair = new_pair(target_conf => "timezone = 'America/New_York'", source_conf => "timezone = 'Asia/Kolkata'");
my ($source, $target) = ($pair->source, $pair->target);

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }

$pair->sql_source(q{
	CREATE SCHEMA old;
	CREATE TABLE old.person (
		pid integer PRIMARY KEY,
		fname varchar(50) NOT NULL,
		lname varchar(50),
		born timestamp,
		seen timestamp,
		cents integer,
		small integer NOT NULL,
		active boolean NOT NULL DEFAULT true,
		country char(2),
		remark text,
		secret text NOT NULL DEFAULT 'secret');
	INSERT INTO old.person
	SELECT i, 'First' || i, CASE WHEN i % 5 <> 0 THEN 'Last ' || i END, timestamp '1970-03-01 02:30' + i * interval '11 days 1 hour',
	       timestamp '2024-03-10 02:30' + i * interval '20 minutes', i * 101, i, i % 4 <> 0,
	       (ARRAY['de', 'fr', NULL, 'x'])[1 + i % 4], 'remark ' || i, 'secret ' || i
	  FROM generate_series(1, 200) AS i;
	CREATE TABLE old.code (id text PRIMARY KEY, "Value" text, parent text REFERENCES old.code);
	INSERT INTO old.code SELECT 'C-' || lpad(i::text, 4, '0'), 'value ' || i, CASE WHEN i > 1 THEN 'C-0001' END FROM generate_series(1, 50) AS i;
	CREATE TABLE old.pair (a integer, b text, v text, PRIMARY KEY (a, b));
	INSERT INTO old.pair SELECT i, 'b' || i, 'v' || i FROM generate_series(1, 20) AS i;});
$pair->sql_target(q{
	CREATE SCHEMA new;
	CREATE SCHEMA tools;
	CREATE SCHEMA trap;
	CREATE FUNCTION tools.whole_name(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT a || coalesce(' ' || upper(b), '') $$;
	CREATE FUNCTION trap.whole_name(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'wrong' $$;
	CREATE FUNCTION tools.last_word(a text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT regexp_replace(a, '.* ', '') $$;
	CREATE TABLE new.people (
		note text DEFAULT 'left out',
		born timestamptz,
		seen timestamptz,
		id bigint PRIMARY KEY,
		first_name text NOT NULL,
		last_name text,
		whole_name text,
		euros numeric(12, 2),
		small bigint NOT NULL,
		active boolean NOT NULL,
		country text,
		since date NOT NULL DEFAULT '2020-02-20',
		letter text GENERATED ALWAYS AS (left(first_name, 1)) STORED);
	CREATE INDEX ON new.people (whole_name);
	CREATE TABLE new.code (number integer PRIMARY KEY, value text, parent integer REFERENCES new.code);
	CREATE TABLE new.pair (key text PRIMARY KEY, v text);});
$pair->import_foreign_schema('old', 'old');

# What the target should be, as seen from the source.
my @expected = (
	{	source => q{(SELECT pid AS id, fname, lname, fname || coalesce(' ' || upper(lname), ''), born AT TIME ZONE 'UTC' AT TIME ZONE 'UTC', seen,
			round(cents / 100.0, 2), small, active, upper(btrim(country)) FROM old.person WHERE active AND cents > 500)},
		target => q{(SELECT id, first_name, last_name, whole_name, born AT TIME ZONE 'UTC', seen AT TIME ZONE 'UTC', euros, small, active, country FROM new.people)} },
	{	source => q{(SELECT substr(id, 3)::integer, "Value", substr(parent, 3)::integer FROM old.code)},
		target => q{(SELECT number, value, parent FROM new.code)} },
	{	source => q{(SELECT a || '/' || b, v FROM old.pair)},
		target => q{(SELECT key, v FROM new.pair)} });

# ---------------------------------------------------------------------------
# Definition.

$pair->sql_target(q{SELECT rehome.create_migration('m', 'src', 'the schema was never right')});
my ($refused, undef, $why, $how) = sqlstate_of($target, q{SELECT rehome.add_table('m', 'old.code', 'new.code')});
is($refused, '42804', 'a column of the same name and a type that does not fit is refused');
like("$why $how", qr/"parent" of "code" is of type text .* and integer here.*columns =>/, 'with what to write instead');
$pair->sql_target(q{
	SELECT rehome.add_table('m', 'old.person', 'new.people', filter => 'active AND cents > 500');
	SELECT rehome.add_table('m', 'old.code', 'new.code', columns => '{"parent": "substr(parent, 3)::integer"}');
	SELECT rehome.add_table('m', 'old.pair', 'new.pair');});
my $unmapped = $pair->sql_target(q{SELECT object FROM rehome.preflight('m') WHERE severity = 'error' ORDER BY object});
is($unmapped, "new.code.number\nnew.pair.key\nnew.people.first_name\nnew.people.id", 'preflight names the columns that are to be mapped still');
is((sqlstate_of($target, q{CALL rehome.start('m')}))[0], 'RH002', 'and start is refused');

$pair->sql_target(q{
	SET search_path = new, tools, public;
	SELECT rehome.map_column('m', 'people', 'id', 'pid');
	SELECT rehome.map_column('m', 'people', 'first_name', 'fname');
	SELECT rehome.map_column('m', 'people', 'last_name', 'source.lname');
	SELECT rehome.map_column('m', 'people', 'whole_name', 'whole_name(fname, lname)', note => 'for the search');
	SELECT rehome.map_column('m', 'people', 'born', $$born AT TIME ZONE 'UTC'$$, inverse => $$born AT TIME ZONE 'UTC'$$);
	SELECT rehome.map_column('m', 'people', 'euros', 'round(cents / 100.0, 2)', inverse => '(euros * 100)::integer');
	SELECT rehome.map_column('m', 'people', 'country', 'upper(btrim(country))', inverse => 'lower(country)');
	SELECT rehome.map_column('m', 'people', 'note', NULL);
	SELECT rehome.map_column('m', 'code', 'number', 'substr(id, 3)::integer', inverse => $$'C-' || lpad(number::text, 4, '0')$$);
	SELECT rehome.map_column('m', 'code', 'value', '"Value"');
	SELECT rehome.map_column('m', 'code', 'parent', 'substr(parent, 3)::integer', inverse => $$'C-' || lpad(parent::text, 4, '0')$$);
	SELECT rehome.map_column('m', 'pair', 'key', $$a || '/' || b$$);});
is($pair->sql_target(q{SELECT count(*) FROM rehome.preflight('m') WHERE severity = 'error' AND "check" <> 'reverse'}), '0', 'mapped, nothing keeps it from starting');
like($pair->sql_target(q{SELECT expression FROM rehome.column_map WHERE "column" = 'whole_name'}), qr/tools\.whole_name/,
	'a function is stored with the schema that the definer meant');
my %reverse = map { split /\|/ } split /\n/, $pair->sql_target(q{SELECT object, severity FROM rehome.preflight('m') WHERE "check" = 'reverse' AND severity <> 'info'});
is($reverse{'old.pair.a'}, 'error', 'preflight: the first column of the key that is put together cannot be restored');
is($reverse{'old.pair.b'}, 'error', 'preflight: nor the second');
is($reverse{'old.person.remark'}, 'warning', 'preflight: a column of the source that nothing is mapped from is not carried back');
is($reverse{'old.person.secret'}, 'warning', 'preflight: nor one with a default');
is($reverse{'new.people.whole_name'}, 'warning', 'preflight: what is written to a computed column without inverse is not carried back');
is($reverse{$_}, undef, "preflight: $_ is carried back") for qw(old.person.cents old.person.born old.person.lname old.code.id old.code."Value");

# Mistakes are refused when they are made.
for my $wrong (
	[ q{rehome.map_column('m', 'new.people', 'nothing', 'fname')},            '42703', 'a column that does not exist' ],
	[ q{rehome.map_column('m', 'new.people', 'whole_name', 'nothing')},       '42703', 'an expression over a column that does not exist' ],
	[ q{rehome.map_column('m', 'new.people', 'whole_name', 'no_such(fname)')}, '42883', 'a function that does not exist' ],
	[ q{rehome.map_column('m', 'new.people', 'active', '1.5')},               '42804', 'a type that does not fit' ],
	[ q{rehome.map_column('m', 'new.people', 'whole_name', 'random()::text')}, '42P17', 'a volatile expression' ],
	[ q{rehome.map_column('m', 'new.people', 'first_name', NULL)},            '23502', 'a NOT NULL column left out' ],
	[ q{rehome.map_column('m', 'new.people', 'id', NULL)},                    '42P16', 'a key left out' ],
	[ q{rehome.map_column('m', 'new.people', 'letter', 'fname')},             '428C9', 'a generated column' ],
	[ q{rehome.map_column('m', 'new.people', 'euros', 'cents', inverse => 'nothing')}, '42703', 'an inverse over a column that does not exist' ],
	[ q{rehome.map_column('m', 'new.people', 'whole_name', 'fname; SELECT 1')}, '42601', 'two statements' ],
	[ q{rehome.map_column('m', 'new.people', 'whole_name', '(SELECT 1)::text')}, '0A000', 'a subquery' ])
{
	my ($sql, $code, $what) = @$wrong;
	is((sqlstate_of($target, "SELECT $sql"))[0], $code, "refused: $what");
}

# ---------------------------------------------------------------------------
# Forward.

# Another path and another time zone than the definer's.
call(q{SET search_path = trap; SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET rehome.copy_workers = 0; CALL rehome.copy('m')});
same_content($pair, \@expected, 'copied as mapped');
is($pair->sql_target(q{SELECT DISTINCT note, since, letter FROM new.people}), 'left out|2020-02-20|F', 'columns left out have their defaults');
for my $mode (qw(count hash rows))
{
	is($pair->sql_target(qq{SET timezone = 'Asia/Tokyo'; SELECT string_agg(target || ' ' || source_rows || ' ' || ok, ', ' ORDER BY target::text)
			FROM rehome.verify('m', mode => '$mode')}), 'new.code 50 true, new.pair 20 true, new.people 147 true', "verify, mode $mode");
}

sub sync { return call(q{SET search_path = trap; SET timezone = 'Pacific/Chatham'; CALL rehome.sync('m')}) }
my @forward = (
	[ 'rows leave the filter', q{UPDATE old.person SET active = false WHERE pid IN (9, 10); UPDATE old.person SET cents = 500 WHERE pid = 11} ],
	[ 'rows enter the filter', q{UPDATE old.person SET active = true WHERE pid IN (8, 9, 4); UPDATE old.person SET cents = 501 WHERE pid = 1} ],
	[ 'rows in and out again in one transaction', q{BEGIN; UPDATE old.person SET active = NOT active WHERE pid < 20; UPDATE old.person SET active = NOT active WHERE pid < 10; COMMIT} ],
	[ 'rows that never were in it', q{UPDATE old.person SET fname = 'out of it' WHERE pid = 2; DELETE FROM old.person WHERE pid = 3; INSERT INTO old.person (pid, fname, small, cents) VALUES (300, 'cheap', 1, 1)} ],
	[ 'the filter undecided: null', q{UPDATE old.person SET cents = NULL WHERE pid IN (20, 21); UPDATE old.person SET cents = 5000 WHERE pid = 21} ],
	[ 'a key out of the filter is taken by a row in it', q{DELETE FROM old.person WHERE pid = 16; UPDATE old.person SET pid = 16 WHERE pid = 18} ],
	[ 'computed columns', q{UPDATE old.person SET lname = 'Müller', born = '2024-03-31 02:30', seen = 'infinity' WHERE pid IN (30, 31); UPDATE old.person SET country = 'b' WHERE pid = 33} ],
	[ 'changes that the map does not see', q{UPDATE old.person SET remark = 'x', secret = 'y'} ],
	[ 'computed keys', q{INSERT INTO old.code VALUES ('C-9999', 'x', 'C-0002'); UPDATE old.code SET id = 'C-0077' WHERE id = 'C-0050'; DELETE FROM old.code WHERE id = 'C-0049'} ],
	[ 'computed keys exchanged', q{BEGIN; UPDATE old.code SET id = 'C-8888' WHERE id = 'C-0010'; UPDATE old.code SET id = 'C-0010' WHERE id = 'C-0011'; UPDATE old.code SET id = 'C-0011' WHERE id = 'C-8888'; COMMIT} ],
	[ 'a key put together', q{UPDATE old.pair SET a = a + 100 WHERE a < 5; UPDATE old.pair SET b = 'new' WHERE a = 6; DELETE FROM old.pair WHERE a = 7} ],
	[ 'TRUNCATE', q{BEGIN; TRUNCATE old.pair; INSERT INTO old.pair VALUES (1, 'x', 'y'); COMMIT} ]);
for my $step (@forward)
{
	$pair->sql_source($step->[1]);
	sync();
	same_content($pair, \@expected, "forward: $step->[0]");
}
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('m', mode => 'rows') WHERE NOT ok}), '0', 'verify finds nothing');
is($pair->sql_target(q{SELECT count(*) FROM new.people WHERE note <> 'left out' OR since <> '2020-02-20'}), '0', 'columns left out still have their defaults');

# A key that cannot be computed any more is an error, not a lost row.
$pair->sql_source(q{INSERT INTO old.code VALUES ('no number', 'x')});
is((sqlstate_of($target, q{CALL rehome.sync('m')}))[0], '22P02', 'a row that the map cannot bear is an error');
$pair->sql_source(q{DELETE FROM old.code WHERE id = 'no number'; INSERT INTO old.code VALUES ('C-0500', 'number')});
sync();
same_content($pair, \@expected, 'put right at the source, sync goes on');
$pair->sql_source(q{BEGIN; UPDATE old.code SET id = 'tmp' WHERE id = 'C-0012'; UPDATE old.code SET id = 'C-0012' WHERE id = 'C-0013'; UPDATE old.code SET id = 'C-0013' WHERE id = 'tmp'; COMMIT});
sync();
same_content($pair, \@expected, 'nor does it mind a key that was there in passing only, inside of a transaction');

# ---------------------------------------------------------------------------
# The cutover is refused as long as a key cannot be restored.

my ($sqlstate, $message, $detail) = sqlstate_of($target, q{CALL rehome.cutover('m')});
is($sqlstate, 'RH003', 'the cutover is refused, since one key cannot be restored');
like($detail, qr/old\.pair\.a/, 'which is named');
like($detail, qr/old\.pair\.b/, 'with all of it');
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'syncing|source', 'nothing has changed');

# Once more, with that table in a slice of its own.
call(q{CALL rehome.cancel('m')});
$pair->sql_target(q{
	SELECT rehome.drop_migration('m');
	TRUNCATE new.people, new.code, new.pair;
	SELECT rehome.create_migration('m', 'src', 'the schema was never right');
	SELECT rehome.add_slice('m', 'for ever');
	SELECT rehome.add_table('m', 'old.person', 'new.people', filter => 'active AND cents > 500');
	SELECT rehome.add_table('m', 'old.code', 'new.code', columns => '{"parent": "substr(parent, 3)::integer", "number": "substr(id, 3)::integer"}');
	SELECT rehome.add_table('m', 'old.pair', 'new.pair', slice => 'for ever', columns => $${"key": "a || '/' || b"}$$);
	SET search_path = new, tools, public;
	SELECT rehome.map_column('m', 'people', 'id', 'pid');
	SELECT rehome.map_column('m', 'people', 'first_name', 'fname');
	SELECT rehome.map_column('m', 'people', 'last_name', 'lname');
	SELECT rehome.map_column('m', 'people', 'whole_name', 'whole_name(fname, lname)');
	SELECT rehome.map_column('m', 'people', 'born', $$born AT TIME ZONE 'UTC'$$, inverse => $$born AT TIME ZONE 'UTC'$$);
	SELECT rehome.map_column('m', 'people', 'euros', 'round(cents / 100.0, 2)', inverse => '(euros * 100)::integer');
	SELECT rehome.map_column('m', 'people', 'country', 'upper(btrim(country))', inverse => 'lower(country)');
	SELECT rehome.map_column('m', 'code', 'number', 'substr(id, 3)::integer', inverse => $$'C-' || lpad(number::text, 4, '0')$$);
	SELECT rehome.map_column('m', 'code', 'value', '"Value"');
	SELECT rehome.map_column('m', 'code', 'parent', 'substr(parent, 3)::integer', inverse => $$'C-' || lpad(parent::text, 4, '0')$$);});
call(q{CALL rehome.copy('m')});
same_content($pair, \@expected, 'copied again, by workers, in two slices');

my $hidden = q{SELECT md5(string_agg(p::text, ',' ORDER BY pid)) || ' ' || count(*) FROM old.person p WHERE (active AND cents > 500) IS NOT TRUE};
my $unseen = q{SELECT md5(string_agg(concat_ws(',', pid, remark, secret), ' ' ORDER BY pid)) FROM old.person WHERE pid < 1000};
my ($hidden_before, $unseen_before) = map { $pair->sql_source($_) } $hidden, $unseen;
call(q{CALL rehome.cutover('m', 'main')});
is($pair->sql_target('SELECT slice, state FROM rehome.status ORDER BY slice'), "for ever|syncing\nmain|cut_over", 'the slice that can be carried back is cut over');

# ---------------------------------------------------------------------------
# Backward.

my @backward = (
	[ 'new rows, by the inverses', q{
		INSERT INTO new.people (id, first_name, last_name, whole_name, born, seen, euros, small, active, country)
		SELECT 1000 + i, 'Neu', 'Last', 'Neu LAST', timestamptz '2024-03-31 01:30:00+00' + i * interval '1 hour', '2024-10-27 00:30:00+00', 12.34 + i, i, true, CASE WHEN i > 1 THEN 'DE' END
		  FROM generate_series(1, 5) AS i;
		INSERT INTO new.code VALUES (600, 'neu', 1), (601, NULL, 600)} ],
	[ 'values changed', q{
		UPDATE new.people SET euros = euros + 1, born = born + interval '1 day', last_name = NULL, whole_name = first_name WHERE id % 10 = 1;
		UPDATE new.people SET seen = 'infinity', country = NULL WHERE id = 12;
		UPDATE new.code SET value = 'changed' WHERE number < 5} ],
	[ 'keys changed', q{
		UPDATE new.people SET id = id + 2000 WHERE id IN (13, 14);
		UPDATE new.code SET number = 700 WHERE number = 601;
		BEGIN; UPDATE new.code SET number = -1 WHERE number = 20; UPDATE new.code SET number = 20 WHERE number = 21; UPDATE new.code SET number = 21 WHERE number = -1; COMMIT} ],
	[ 'rows deleted', q{DELETE FROM new.people WHERE id IN (15, 17, 1001); DELETE FROM new.code WHERE number = 9999} ],
	[ 'a row inserted and deleted between two batches', q{INSERT INTO new.code VALUES (800, 'x', NULL); DELETE FROM new.code WHERE number = 800} ]);
for my $step (@backward)
{
	$pair->sql_target("SET timezone = 'Asia/Tokyo'; $step->[1]");
	sync();
	same_content($pair, \@expected, "backward: $step->[0]");
}
is($pair->sql_source($hidden), $hidden_before, 'rows that the filter hides are as they were');
is($pair->sql_source(q{SELECT bool_and(remark IS NOT DISTINCT FROM 'x' AND secret = 'y') FROM old.person WHERE pid < 1000}), 't', 'columns that are not mapped keep their values');
is($pair->sql_source(q{SELECT DISTINCT remark IS NULL, secret FROM old.person WHERE pid BETWEEN 1002 AND 1999}), 't|secret', 'and have their defaults in new rows');
is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('m', 'main', mode => 'rows') WHERE NOT ok}), '0', 'verify finds nothing, after cutover');

# The key of a row that the filter hides: it must not be touched.
my $pid = $pair->sql_source('SELECT min(pid) FROM old.person WHERE NOT active AND cents > 500');
my $row = "SELECT p FROM old.person p WHERE pid = $pid";
my $was = $pair->sql_source($row);
$pair->sql_target(qq{INSERT INTO new.people (id, first_name, small, active, euros) VALUES ($pid, 'usurper', 1, true, 10); DELETE FROM new.people WHERE id = $pid});
sync();
is($pair->sql_source($row), $was, 'a row inserted with the key of a hidden one, and deleted: the hidden one is not deleted');
$pair->sql_target(qq{INSERT INTO new.people (id, first_name, small, active, euros) VALUES ($pid, 'usurper', 1, true, 10)});
($sqlstate, $message) = sqlstate_of($target, q{CALL rehome.sync('m', 'main')});
like($message, qr/rows outside the filter/, 'a row inserted with the key of a hidden one cannot be carried back: an error');
is($pair->sql_source($row), $was, 'and the hidden one is not overwritten');
$pair->sql_target(qq{DELETE FROM new.people WHERE id = $pid});
sync();
is($pair->sql_source($row), $was, 'taken away again, sync goes on and the hidden one is there');

# TRUNCATE takes the rows that were moved, and no others.
$pair->sql_target(q{TRUNCATE new.people; INSERT INTO new.people (id, first_name, small, active, euros) VALUES (1, 'only', 1, true, 10)});
sync();
is($pair->sql_source(q{SELECT pid FROM old.person WHERE active AND cents > 500}), '1', 'TRUNCATE at the target deletes the rows of the filter at the source');
is($pair->sql_source($hidden), $hidden_before, 'and not those that the filter hides');

# A row that leaves the filter at the target, where no filter holds: after the
# rollback it is not the slice's any more.
$pair->sql_target(q{INSERT INTO new.people (id, first_name, small, active, euros) VALUES (2000, 'stays', 1, true, 10), (2001, 'leaves', 1, false, 10), (2002, 'leaves later', 1, true, 10);
	UPDATE new.people SET active = false WHERE id = 2002});
call(q{CALL rehome.rollback('m', 'main')});
ok($pair->wait_for_state('m', 'syncing', 'main'), 'rolled back');
is($pair->sql_source(q{SELECT string_agg(fname, ', ' ORDER BY pid) FROM old.person WHERE pid >= 2000}), 'stays, leaves, leaves later', 'the source has all rows written at the target');
sync();
same_content($pair, \@expected, 'after the rollback the target is again the mapped state of the source: rows out of the filter have left it');
is($pair->sql_target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('m', 'main', mode => 'rows') WHERE NOT ok}), '', 'verify finds nothing, after rollback');
$pair->sql_source(q{UPDATE old.person SET active = true WHERE pid < 50; UPDATE old.code SET id = 'C-0888' WHERE id = 'C-0700'});
sync();
same_content($pair, \@expected, 'and the source is synced from');

# ---------------------------------------------------------------------------
# One way.

($sqlstate) = sqlstate_of($target, q{CALL rehome.cutover('m', 'for ever')});
is($sqlstate, 'RH003', 'the slice that cannot be carried back is not cut over');
call(q{CALL rehome.cutover('m', 'for ever', one_way => true)});
is($pair->sql_target(q{SELECT state, authority FROM rehome.status WHERE slice = 'for ever'}), 'cut_over|target', 'unless one_way is asked for');
is((sqlstate_of($source, 'DELETE FROM old.pair'))[0], '25006', 'the source refuses writes');
$pair->sql_target(q{INSERT INTO new.pair VALUES ('new', 'v'); UPDATE new.pair SET v = 'changed'; DELETE FROM new.pair WHERE v IS NULL});
my $old = $pair->sql_source('SELECT string_agg(p::text, $$ $$ ORDER BY a) FROM old.pair p');
($sqlstate, $message) = sqlstate_of($target, q{CALL rehome.rollback('m', 'for ever')});
like($sqlstate, qr/^RH/, "a rollback of it is refused ($message)");
is($pair->sql_target(q{SELECT state, authority FROM rehome.status WHERE slice = 'for ever'}), 'cut_over|target', 'authority stays with the target');
is($pair->sql_source('SELECT string_agg(p::text, $$ $$ ORDER BY a) FROM old.pair p'), $old, 'and the source as it was');
call(q{CALL rehome.complete('m', 'for ever')});
is($pair->sql_target(q{SELECT state, authority FROM rehome.status WHERE slice = 'for ever'}), 'completed|target', 'completed');
is($pair->sql_target(q{SELECT v FROM new.pair WHERE key = 'new'}), 'changed', 'with the rows that the target has');

# ---------------------------------------------------------------------------
# Sequences follow columns that have the same values, by whatever rule; the
# others are named.

$pair->sql_source(q{
	CREATE SCHEMA counted;
	CREATE TABLE counted.t (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, serial serial, checked serial, late serial, doubled serial, v text);
	INSERT INTO counted.t (v) SELECT 'v' FROM generate_series(1, 5)});
$pair->sql_target(q{
	CREATE SCHEMA counted;
	CREATE TABLE counted.t (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, serial bigserial, checked serial, renamed bigserial, doubled serial, v text)});
$pair->import_foreign_schema('counted', 'far');
$pair->sql_target(q{
	SELECT rehome.create_migration('s', 'src', 'sequences');
	SELECT rehome.add_table('s', 'far.t', 'counted.t');
	SELECT rehome.add_rule('s', 'counted.t', 'id', 'cast');
	SELECT rehome.map_column('s', 'counted.t', 'serial', 'serial::bigint', 'serial::int');
	SELECT rehome.add_rule('s', 'counted.t', 'checked', 'copy', validation => 'value > 0');
	SELECT rehome.add_rule('s', 'counted.t', 'renamed', 'cast', source_column => 'late');
	SELECT rehome.map_column('s', 'counted.t', 'doubled', 'doubled * 2', 'doubled / 2', 'doubled')});
is($pair->sql_target(q{SELECT string_agg(object || ' ' || severity, ', ' ORDER BY object) FROM rehome.preflight('s') WHERE "check" = 'sequence' AND object LIKE 'counted.%'}),
	'counted.t_doubled_seq warning', 'preflight names the sequence whose column has other values');
call(q{CALL rehome.copy('s')});
is($pair->sql_target(q{SELECT string_agg(object || ' ' || intended, ', ' ORDER BY object) FROM rehome.structure('s') WHERE kind = 'sequence'}),
	'counted.t(checked) true, counted.t(doubled) false, counted.t(id) true, counted.t(serial) true', 'so does the comparison of structures');
call(q{CALL rehome.cutover('s')});
is($pair->sql_target(q{INSERT INTO counted.t (v) VALUES ('here') RETURNING id, serial, checked, renamed, doubled}), '6|6|6|6|1', 'those of columns with the same values have come along');
call(q{CALL rehome.rollback('s')});
is($pair->sql_source(q{INSERT INTO counted.t (v) VALUES ('there again') RETURNING id, serial, checked, late}), '7|7|7|7', 'and go back');

done_testing();
