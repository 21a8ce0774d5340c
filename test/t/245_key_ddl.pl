# DDL on key columns, on either side: the product's writes go on, no change is
# missed, no other column is taken for the key, and the table, no other one,
# waits until it is told what to do.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'keys', role => 1, tcp => 1);
my $schema = q{
	CREATE TABLE item (spare int, id int PRIMARY KEY, v text);
	CREATE TABLE twin (a int, b int, v text, PRIMARY KEY (a, b));
	CREATE TABLE part (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
	CREATE TABLE part_2 (v text, junk int, day date NOT NULL, id int NOT NULL, PRIMARY KEY (id, day));
	ALTER TABLE part_2 DROP COLUMN junk;
	ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
	CREATE TABLE word (id int PRIMARY KEY, said text, n int);
	CREATE TABLE other (id int PRIMARY KEY, v text);};
$pair->sql_source($schema . q{
	CREATE SCHEMA attic;
	INSERT INTO item SELECT i * 10, i, 'i' || i FROM generate_series(1, 300) AS i;
	INSERT INTO twin SELECT i, i + 1000, 't' || i FROM generate_series(1, 300) AS i;
	INSERT INTO part SELECT i, '2020-06-01'::date + i, 'p' || i FROM generate_series(1, 300) AS i;
	INSERT INTO word SELECT i, 'w' || i, i FROM generate_series(1, 50) AS i;
	INSERT INTO other SELECT i, 'o' || i FROM generate_series(1, 50) AS i;});
$pair->sql_target($schema);
$pair->grant_source('public');
$pair->sql_source(q{GRANT USAGE ON SCHEMA attic TO rehome_src});
$pair->import_foreign_schema('public', 'src', qw(item twin part word other));
$pair->sql_target(q{
	SELECT rehome.create_migration('k', 'src', 'keys are renamed');
	SELECT rehome.add_table('k', format('src.%I', t)::regclass, t::regclass) FROM unnest(ARRAY['item', 'twin', 'part', 'word', 'other']) AS t;
	SELECT rehome.map_column('k', 'word', 'said', 'upper(said)', inverse => 'lower(said)');
	CALL rehome.start('k')});
ok($pair->wait_for_state('k', 'syncing'), 'in sync');

sub target { my ($sql) = @_; return $pair->sql_target($sql) }
sub source { my ($sql) = @_; return $pair->sql_source($sql) }
sub writes { my ($sql) = @_; return (sqlstate_of($pair->source, $sql, 'keys'))[0] }

# Writes fail until the change has been noticed, no longer.
sub written
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $until = time + 30;
	my $state;
	select(undef, undef, undef, 0.1) while ($state = writes($sql)) ne '00000' and time < $until;
	is($state, '00000', $name);
	return;
}

sub only_paused
{
	my ($table, $reason) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_until($pair->target, q{SELECT bool_or(paused) FROM rehome.table_map}, undef, 'keys'), "$table: paused");
	is(target(q{SELECT target || ': ' || reason FROM rehome.table_map WHERE paused}), "$table: $reason", "$table: that one, for the reason");
	my $id = source(q{INSERT INTO other SELECT max(id) + 1, 'more' FROM other RETURNING id}) =~ s/\n.*//sr;
	ok(wait_until($pair->target, "SELECT count(*) = 1 FROM other WHERE id = $id", undef, 'keys'), "$table: others keep syncing");
	return;
}

# Returns the rows that were applied.
sub resumed
{
	my ($table) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = target('SELECT rows_applied FROM rehome.slice');
	target("SELECT rehome.resume_table('k', '$table')");
	target(q{CALL rehome.sync('k')});
	is(target(q{SELECT count(*) FROM rehome.verify('k', mode => 'rows') WHERE NOT ok}), '0', "$table: the same on both sides");
	is(target(q{SELECT count(*) FROM rehome.table_map WHERE paused OR position IS NOT NULL}), '0', "$table: it has caught up");
	return target('SELECT rows_applied FROM rehome.slice') - $before;
}

# --- a key column is renamed at the source -----------------------------------

source(q{ALTER TABLE item RENAME id TO item_id});
written(q{UPDATE item SET v = 'after the rename' WHERE item_id = 1; UPDATE item SET item_id = 1002 WHERE item_id = 2; DELETE FROM item WHERE item_id = 3; INSERT INTO item VALUES (0, 1004, 'new')}, 'item is written under the new name');
only_paused('item', 'at the source column id was renamed to item_id');
source(q{ALTER TABLE item RENAME item_id TO number});
written(q{UPDATE item SET v = 'after another' WHERE number = 4}, 'renamed again while paused');
target(q{ALTER FOREIGN TABLE src.item ALTER id OPTIONS (SET column_name 'number')});
is(resumed('item'), 6, 'it goes on from where it was');

source(q{ALTER TABLE part RENAME id TO ident});
written(q{UPDATE part SET v = 'after the rename' WHERE ident IN (1, 290); UPDATE part SET ident = 1002, day = '2021-03-03' WHERE ident = 2; INSERT INTO part VALUES (1003, '2021-04-04', 'new')}, 'partitions too');
only_paused('part', 'at the source column id was renamed to ident');
source(q{ALTER TABLE part RENAME ident TO id});
written(q{DELETE FROM part WHERE id = 5}, 'renamed back');
is(resumed('part'), 6, 'it goes on from where it was');

# Nobody looks while the slice is paused.
target(q{SELECT rehome.pause('k', reason => 'nobody looks')});
is(writes(q{ALTER TABLE twin RENAME a TO aa; UPDATE twin SET v = 'x' WHERE aa = 1}), '42703', 'until capture is mended writes fail');
is(source(q{SELECT * FROM rehome_source.mend()}), '', 'mended by hand');
is(writes(q{UPDATE twin SET v = 'x' WHERE aa = 1}), '00000', 'so they do not any more');
is(writes(q{BEGIN; ALTER TABLE twin RENAME aa TO aaa; SELECT rehome_source.mend(); UPDATE twin SET v = 'y' WHERE aaa = 2; COMMIT; UPDATE twin SET v = 'z' WHERE aaa = 3}),
	'00000', 'nor at all with the rename in one transaction');
is(writes(q{SET ROLE rehome_src; SELECT rehome_source.mend()}), '00000', 'the source role may');
is(source(q{SELECT has_function_privilege('public', 'rehome_source.mend(text, int)', 'EXECUTE')}), 'f', 'not everybody');
target(q{SELECT rehome.resume('k')});
only_paused('twin', 'at the source column a was renamed to aaa');
target(q{ALTER FOREIGN TABLE src.twin ALTER a OPTIONS (SET column_name 'aaa')});
is(resumed('twin'), 3, 'it goes on from where it was');

# --- the key cannot be noted any more ----------------------------------------

# The columns of the key change their names with each other, or with another.
source(q{BEGIN; ALTER TABLE twin RENAME aaa TO c; ALTER TABLE twin RENAME b TO aaa; ALTER TABLE twin RENAME c TO b; COMMIT; UPDATE twin SET v = 'swapped' WHERE b = 9});
my $reason = 'at the source key column aaa was renamed to b, and another column is called aaa, key column b was renamed to aaa, and another column is called b: changes cannot be noted any more';
only_paused('twin', $reason);
is(writes(q{UPDATE twin SET v = 'swapped' WHERE b = 10; DELETE FROM twin WHERE b = 11}), '00000', 'writes go on');
target(q{ALTER FOREIGN TABLE src.twin ALTER a OPTIONS (SET column_name 'b'); ALTER FOREIGN TABLE src.twin ALTER b OPTIONS (SET column_name 'aaa')});
cmp_ok(resumed('twin'), '>=', 299, 'it is read as a whole');
source(q{UPDATE twin SET v = 'noted again' WHERE b = 12});
target(q{CALL rehome.sync('k')});
is(target(q{SELECT v FROM twin WHERE a = 12}), 'noted again', 'and changes are captured again');

source(q{BEGIN; ALTER TABLE item RENAME number TO c; ALTER TABLE item RENAME spare TO number; COMMIT; UPDATE item SET v = 'taken for another' WHERE c = 20});
only_paused('item', 'at the source key column number was renamed to c, and another column is called number: changes cannot be noted any more');
target(q{ALTER FOREIGN TABLE src.item ALTER id OPTIONS (SET column_name 'c'); ALTER FOREIGN TABLE src.item ALTER spare OPTIONS (SET column_name 'number')});
cmp_ok(resumed('item'), '>=', 300, 'it is read as a whole');
is(target(q{SELECT v FROM item WHERE id = 20}), 'taken for another', 'so nothing is missed');

is(writes(q{ALTER TABLE item ALTER c TYPE bigint}), '0A000', 'PostgreSQL does not let a captured key be retyped');
is(writes(q{ALTER TABLE item DROP c}), '2BP01', 'nor dropped, without CASCADE');
source(q{ALTER TABLE item DROP c CASCADE});
written(q{UPDATE item SET v = 'without a key' WHERE v = 'i30'; INSERT INTO item VALUES (0, 'lost key')}, 'writes go on without the key');
only_paused('item', 'at the source key column c was dropped: changes cannot be noted any more');
source(q{ALTER TABLE item ADD c serial PRIMARY KEY; ALTER TABLE item ALTER c DROP DEFAULT; DROP SEQUENCE item_c_seq});
cmp_ok(resumed('item'), '>=', 300, 'brought back, it is read as a whole');
source(q{UPDATE item SET v = 'noted again' WHERE c = 7});
target(q{CALL rehome.sync('k')});
is(target(q{SELECT v FROM item WHERE id = 7}), 'noted again', 'and changes are captured again');

source(q{DO $$ BEGIN EXECUTE (SELECT format('DROP TRIGGER %I ON item', tgname) FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname LIKE '%moved'); END $$;
	ALTER TABLE item ALTER c TYPE text USING 'k' || c});
written(q{UPDATE item SET v = 'retyped' WHERE c = 'k8'}, 'writes go on with another type');
only_paused('item', 'at the source key column c is of another type: changes cannot be noted any more');
source(q{ALTER TABLE item ALTER c TYPE int USING substr(c, 2)::int});
cmp_ok(resumed('item'), '>=', 300, 'put right, it is read as a whole');

# --- the table, and columns that are no key ----------------------------------

is(writes(q{ALTER TABLE other RENAME TO others; UPDATE others SET v = 'renamed' WHERE id = 1; ALTER TABLE others SET SCHEMA attic; UPDATE attic.others SET v = 'moved' WHERE id = 2; ALTER TABLE attic.others RENAME id TO ident}),
	'00000', 'a table that is renamed and moved is written');
ok(wait_until($pair->target, q{SELECT paused FROM rehome.table_map WHERE target = 'other'::regclass}, undef, 'keys'), 'it is paused');
is(target(q{SELECT reason FROM rehome.table_map WHERE paused}), 'at the source the table does not exist any more', 'for the reason');
written(q{UPDATE attic.others SET v = 'key renamed' WHERE ident = 3}, 'its key may be renamed, too');
target(q{ALTER FOREIGN TABLE src.other OPTIONS (SET schema_name 'attic', SET table_name 'others'); ALTER FOREIGN TABLE src.other ALTER id OPTIONS (SET column_name 'ident')});
resumed('other');
source(q{UPDATE attic.others SET v = 'noted again' WHERE ident = 4; ALTER TABLE attic.others RENAME ident TO id; ALTER TABLE attic.others RENAME TO other; ALTER TABLE attic.other SET SCHEMA public});
ok(wait_until($pair->target, q{SELECT paused FROM rehome.table_map WHERE target = 'other'::regclass}, undef, 'keys'), 'all the way back');
target(q{ALTER FOREIGN TABLE src.other OPTIONS (SET schema_name 'public', SET table_name 'other'); ALTER FOREIGN TABLE src.other ALTER id OPTIONS (SET column_name 'id')});
resumed('other');
is(target(q{SELECT string_agg(v, ', ' ORDER BY id) FROM other WHERE id < 5}), 'renamed, moved, key renamed, noted again', 'with all that was written');

# a foreign table that was made by hand need not have the option yet
target(q{ALTER FOREIGN TABLE src.word ALTER said OPTIONS (DROP column_name)});
is(writes(q{ALTER TABLE word RENAME said TO spoken; UPDATE word SET spoken = 'hello' WHERE id = 1}), '00000', 'a column that an expression reads is renamed');
only_paused('word', 'at the source column said was renamed to spoken');
my ($follow) = target(q{SELECT detail ->> 'hint' FROM rehome.drift WHERE object = 'public.word.said' AND resolved_at IS NULL}) =~ /(ALTER FOREIGN TABLE [^;]*;)/;
is($follow, q{ALTER FOREIGN TABLE src.word ALTER COLUMN said OPTIONS (ADD column_name 'spoken');}, 'the hint is a statement that can be run');
target($follow);
is(resumed('word'), 1, 'it goes on from where it was');
is(target(q{SELECT said FROM word WHERE id = 1}), 'HELLO', 'by the rule as it was');
is(writes(q{ALTER TABLE word ALTER n TYPE bigint; UPDATE word SET n = n + 1 WHERE id = 2}), '00000', 'one that is no key is retyped');
only_paused('word', 'at the source column n is of type bigint instead of integer');
target(q{ALTER FOREIGN TABLE src.word ALTER n TYPE bigint});
resumed('word');
is(writes(q{ALTER TABLE word DROP n; UPDATE word SET spoken = 'bye' WHERE id = 3}), '00000', 'and dropped');
only_paused('word', 'at the source column n was dropped');
target(q{SELECT rehome.map_column('k', 'word', 'n', NULL); ALTER FOREIGN TABLE src.word DROP COLUMN n});
resumed('word');

# --- after the cutover, at the target ----------------------------------------

target(q{CALL rehome.cutover('k')});
target(q{CALL rehome.sync('k')});

sub brought_back
{
	my ($table, $columns, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	target(q{CALL rehome.sync('k')});
	is(target("SELECT count(*), md5(string_agg($columns->[0], ',' ORDER BY $columns->[0])) FROM $table"),
		source("SELECT count(*), md5(string_agg($columns->[1], ',' ORDER BY $columns->[1])) FROM $table"), $name);
	return;
}
my $item = [ q{concat_ws('|', id, v)}, q{concat_ws('|', c, v)} ];
my $part = [ q{concat_ws('|', id, day, v)}, q{concat_ws('|', id, day, v)} ];

target(q{UPDATE item SET v = 'home' WHERE id = 40; UPDATE part SET v = 'home' WHERE id IN (40, 280)});
brought_back('item', $item, 'changes go back');
brought_back('part', $part, 'those of partitions too, wherever their columns are');

target(q{ALTER TABLE item RENAME id TO here; UPDATE item SET v = 'renamed here' WHERE here = 41; UPDATE item SET here = 2042 WHERE here = 42; DELETE FROM item WHERE here = 43;
	ALTER TABLE part RENAME id TO here; UPDATE part SET v = 'renamed here' WHERE here IN (41, 281)});
pass('a key is renamed at the target, and writes go on');
my ($state, $message) = sqlstate_of($pair->target, q{CALL rehome.sync('k')}, 'keys');
is($state, 'RH009', 'the tables cannot be brought back');
is(target(q{SELECT string_agg(target || ': ' || reason, ', ' ORDER BY target::text) FROM rehome.table_map WHERE paused}),
	'item: at the target column id was renamed to here, part: at the target column id was renamed to here', 'and are paused');
is((sqlstate_of($pair->target, q{CALL rehome.rollback('k')}, 'keys'))[0], 'RH009', 'nor is rolled back');
target(q{ALTER TABLE item RENAME here TO id; ALTER TABLE part RENAME here TO id; SELECT rehome.resume_table('k', 'item'), rehome.resume_table('k', 'part')});
brought_back('item', $item, 'renamed back, everything is brought back');
brought_back('part', $part, 'of partitions too');

# While the slice is paused nobody notices.
target(q{SELECT rehome.pause('k');
	BEGIN; ALTER TABLE item RENAME id TO c; ALTER TABLE item RENAME spare TO id; COMMIT; UPDATE item SET v = 'not this key' WHERE c = 44;
	BEGIN; ALTER TABLE item RENAME id TO spare; ALTER TABLE item RENAME c TO id; COMMIT;
	SELECT rehome.resume('k')});
brought_back('item', $item, 'no other column is taken for the key');
target(q{SELECT rehome.pause('k'); ALTER TABLE item ALTER id TYPE text USING id::text; UPDATE item SET v = 'a text' WHERE id = '45'; INSERT INTO item (id, v) VALUES (repeat('9', 5), 'new');
	ALTER TABLE item ALTER id TYPE int USING id::int; SELECT rehome.resume('k')});
brought_back('item', $item, 'nor a value of another type');

# Renamed at the source while nothing is captured there.
target(q{SELECT rehome.pause('k')});
source(q{ALTER TABLE item RENAME c TO id});
target(q{ALTER FOREIGN TABLE src.item ALTER id OPTIONS (SET column_name 'id'); SELECT rehome.resume('k'); CALL rehome.rollback('k')});
is(writes(q{UPDATE item SET v = 'rolled back' WHERE id = 46}), '00000', 'the source is written right after the rollback');
target(q{CALL rehome.sync('k')});
is(target(q{SELECT v, (SELECT count(*) FROM rehome.table_map WHERE paused) FROM item WHERE id = 46}), 'rolled back|0', 'and nothing waits, since the foreign table knows');

# A key that was taken away and put back is found again by the next cutover.
target(q{ALTER TABLE item ADD again int; ALTER TABLE item DISABLE TRIGGER USER; UPDATE item SET again = id; ALTER TABLE item DROP id; ALTER TABLE item RENAME again TO id;
	ALTER TABLE item ADD PRIMARY KEY (id); ALTER TABLE item ENABLE TRIGGER rehome_guard, ENABLE TRIGGER rehome_guard_truncate});
ok(wait_until($pair->target, q{SELECT bool_or(paused) FROM rehome.table_map}, undef, 'keys'), 'the target is another');
resumed('item');
target(q{CALL rehome.cutover('k')});
is(target(q{BEGIN; UPDATE item SET v = 'home again' WHERE id = 47;
	SELECT (xpath('/row/op/text()', query_to_xml(format('SELECT op FROM rehome_change.change_%s WHERE xid = txid_current()', id), false, true, '')))[1]
	  FROM rehome.table_map WHERE target = 'item'::regclass; COMMIT}), 'u', 'changes are known by their keys');
brought_back('item', [ q{concat_ws('|', id, v)}, q{concat_ws('|', id, v)} ], 'and go back');

target(q{CALL rehome.rollback('k'); CALL rehome.cancel('k')});
is(source(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'rehome_source'}), '0', 'nothing is left at the source');

done_testing();
