# DDL after the cutover: the product goes on at its new home, and the old one may
# be altered, too.  The table concerned is not brought back until somebody says
# how it is to go on; all others are.  Nothing is lost by that, and a rollback
# that would lose something is refused.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'back', role => 1, tcp => 1);
my $schema = q{
	CREATE TABLE item (id int PRIMARY KEY, price numeric(12, 2) NOT NULL, note text);
	CREATE TABLE part (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
	CREATE TABLE word (id int PRIMARY KEY, said text);
	CREATE TABLE other (id int PRIMARY KEY, v text);};
$pair->sql_source($schema . q{
	INSERT INTO item SELECT i, i, 'i' || i FROM generate_series(1, 300) AS i;
	INSERT INTO part SELECT i, '2020-06-01', 'p' || i FROM generate_series(1, 50) AS i;
	INSERT INTO word SELECT i, 'w' || i FROM generate_series(1, 50) AS i;
	INSERT INTO other SELECT i, 'o' || i FROM generate_series(1, 50) AS i;});
$pair->sql_target($schema);
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(item part word other));
$pair->sql_target(q{
	SELECT rehome.create_migration('k', 'src', 'DDL after the cutover');
	SELECT rehome.add_table('k', format('src.%I', t)::regclass, t::regclass) FROM unnest(ARRAY['item', 'part', 'word', 'other']) AS t;
	SELECT rehome.map_column('k', 'word', 'said', 'upper(said)', inverse => 'lower(said)');
	CALL rehome.start('k')});
ok($pair->wait_for_state('k', 'syncing'), 'in sync');
$pair->sql_target(q{CALL rehome.cutover('k')});
ok($pair->wait_for_state('k', 'cut_over'), 'cut over');

my @all = qw(item part word other);
my $n   = 1000;

sub target { my ($sql) = @_; return $pair->sql_target($sql) }
sub source { my ($sql) = @_; return $pair->sql_source($sql) }

# The tables that are paused, with why, and no others; seen by the worker.
sub only_paused
{
	my ($table, $reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($pair->target, 'SELECT EXISTS (SELECT FROM rehome.table_map WHERE paused)', undef, 'back');
	is(target(q{SELECT string_agg(target || ': ' || reason, ', ') FROM rehome.table_map WHERE paused}), "$table: $reason", "$name: paused, and no other");
	return;
}

# The others are brought back, and their logs pruned.
sub others_go_on
{
	my ($name, @others) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$n++;
	target("INSERT INTO other VALUES ($n, 'on')");
	ok(wait_until($pair->source, "SELECT EXISTS (SELECT FROM other WHERE id = $n)", undef, 'back'), "$name: the others go on");
	my $log = target(q{SELECT 'rehome_change.change_' || id FROM rehome.table_map WHERE target = 'other'::regclass});
	ok(wait_until($pair->target, "SELECT NOT EXISTS (SELECT FROM $log)", undef, 'back'), "$name: and are pruned");
	my ($sqlstate, $message, $detail) = sqlstate_of($pair->target, q{CALL rehome.sync('k')}, 'back');
	is($sqlstate, 'RH009', "$name: sync says what it has left out") or diag($message);
	($sqlstate, $message, $detail) = sqlstate_of($pair->target, q{CALL rehome.rollback('k')}, 'back');
	is($sqlstate, 'RH009', "$name: rollback is refused") or diag($message);
	is(target('SELECT authority FROM rehome.status'), 'target', "$name: authority stays");
	is(target(q{SELECT string_agg(target || ' ' || ok, ', ' ORDER BY target::text) FROM rehome.verify('k')}),
		join(', ', map { $_ . (grep({ $_ eq $others[0] } $_) ? ' false' : ' true') } sort @all), "$name: a verification says so");
	return;
}

sub goes_on
{
	my ($table, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	target("SELECT rehome.resume_table('k', '$table')");
	my $result = finish_psql(start_psql($pair->target, q{CALL rehome.sync('k')}, dbname => 'back'));
	is($result->{sqlstate}, '00000', "$name: resumed, and in sync") or diag($result->{stderr});
	is(target('SELECT count(*) FROM rehome.table_map WHERE paused OR position IS NOT NULL'), '0', "$name: all tables go on");
	is(target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('k', mode => 'rows') WHERE NOT ok}), '', "$name: nothing is lost");
	return;
}

# A column renamed at the new home, with writes before, between and after.
target(q{UPDATE item SET note = 'before' WHERE id = 1; ALTER TABLE item RENAME note TO remark; UPDATE item SET remark = 'after' WHERE id = 2; DELETE FROM item WHERE id = 3});
only_paused('item', 'at the target column note was renamed to remark', 'renamed');
like(target(q{SELECT detail->>'hint' FROM rehome.drift WHERE kind = 'column renamed' AND resolved_at IS NULL}),
	qr/\ARename it back\. Then SELECT rehome\.resume_table\('k', 'public\.item'\);\z/, 'renamed: what to do is said');
others_go_on('renamed', 'item');
is((sqlstate_of($pair->target, q{SELECT rehome.resume_table('k', 'item')}, 'back'))[0], '42703', 'renamed: it cannot go on like that');
target(q{INSERT INTO item VALUES (400, 1, 'while it was paused'); ALTER TABLE item RENAME remark TO note; UPDATE item SET note = 'back' WHERE id = 4});
goes_on('item', 'renamed');
is(source(q{SELECT string_agg(id || ' ' || note, ', ' ORDER BY id) FROM item WHERE id IN (1, 2, 3, 4, 400)}),
	'1 before, 2 after, 4 back, 400 while it was paused', 'renamed: each write has come back');

# A column dropped and brought back: its values are others, without a trigger's
# notice.
target(q{ALTER TABLE item DROP COLUMN note});
only_paused('item', 'at the target column note was dropped', 'dropped');
target(q{ALTER TABLE item ADD COLUMN note text DEFAULT 'new'});
others_go_on('dropped', 'item');
goes_on('item', 'dropped');
is(source(q{SELECT count(*), min(note), max(note) FROM item}), '300|new|new', 'dropped: all rows have come back');

# Values changed by a change of type.
target(q{ALTER TABLE item ALTER COLUMN price TYPE numeric(14, 2) USING price + 5});
only_paused('item', 'at the target column price is of type numeric(14,2) instead of numeric(12,2)', 'retyped');
goes_on('item', 'retyped');
is(source(q{SELECT sum(price) FROM item}), target('SELECT sum(price) FROM item'), 'retyped: all rows have come back');

# ... to the type it was, here and at the old home; a definition or a file by
# itself changes no value.
my $rewritten = q{SELECT string_agg(side || ' ' || object, ', ' ORDER BY id) FROM rehome.drift WHERE kind = 'column rewritten' AND id > } . target('SELECT max(id) FROM rehome.drift');
target(q{ALTER TABLE item ALTER COLUMN note TYPE text USING note || ' ' || id; ALTER TABLE part ALTER COLUMN v TYPE text USING v || '!'});
target(q{CALL rehome.sync('k')});
is(source(q{SELECT (SELECT note FROM item WHERE id = 7) || ' ' || (SELECT v FROM part WHERE id = 7)}), 'new 7 p7!', 'written anew: all rows have come back');
source(q{ALTER TABLE word ALTER COLUMN said TYPE text USING said || '?'});
target(q{CALL rehome.sync('k')});
is(source(q{SELECT said FROM word WHERE id = 7}), 'w7', 'written anew at the old home: all rows have come back');
is(target($rewritten), 'target public.item.note, target public.part.v, source public.word.said', 'written anew: noted');
is(target(q{SELECT count(*) FROM rehome.table_map WHERE paused}) . target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('k', mode => 'rows') WHERE NOT ok}), '0', 'written anew: all are the same');
target("VACUUM FULL $_") for qw(other item);
source('VACUUM FULL word');
target(q{CALL rehome.sync('k'); ALTER TABLE item ALTER COLUMN note SET STATISTICS 50; CALL rehome.sync('k')});
source(q{ALTER TABLE word ALTER COLUMN said SET STATISTICS 50});
target(q{CALL rehome.sync('k')});
is(target($rewritten), 'target public.item.note, target public.part.v, source public.word.said', 'written anew: nothing else is');

# What nobody maps, and what is no column's.
target(q{ALTER TABLE item ADD COLUMN more int; ALTER TABLE part ADD COLUMN x int NOT NULL DEFAULT 0; UPDATE part SET v = 'x'});
ok(wait_until($pair->target, q{SELECT count(*) = 2 FROM rehome.drift WHERE kind = 'column added' AND resolution = 'compatible'}, undef, 'back'),
	'a column that nobody maps is noted');
is(target('SELECT count(*) FROM rehome.table_map WHERE paused'), '0', 'and nothing is paused');

# Capture switched off, and written to.
target(q{BEGIN; ALTER TABLE word DISABLE TRIGGER rehome_capture; UPDATE word SET said = 'UNSEEN' WHERE id = 5; COMMIT});
only_paused('word', 'at the target capture is missing or disabled, or does not see what is written to tables that inherit from it', 'capture off');
others_go_on('capture off', 'word');
goes_on('word', 'capture off');
is(source(q{SELECT said FROM word WHERE id = 5}), 'unseen', 'capture off: what no trigger has seen has come back');

# Triggers of one partition switched off, written to, and on again: the guard as
# well, which is taken out of the way at once.
target(q{BEGIN; ALTER TABLE part_1 DISABLE TRIGGER USER; UPDATE part_1 SET v = 'unseen' WHERE id = 1; DELETE FROM part_1 WHERE id = 2;
	INSERT INTO part_1 VALUES (60, '2020-02-02', 'unseen'); ALTER TABLE part_1 ENABLE TRIGGER USER; COMMIT});
only_paused('part', 'at the target capture is missing or disabled, or does not see what is written to tables that inherit from it', 'a partition loaded in bulk');
ok(wait_until($pair->target, q{SELECT bool_and(tgenabled = 'D') FROM pg_trigger WHERE tgrelid IN ('part'::regclass, 'part_1'::regclass) AND tgname LIKE 'rehome\_guard%'}, undef, 'back'),
	'a partition loaded in bulk: the guard is off');
target(q{UPDATE part SET v = 'meanwhile' WHERE id = 3; UPDATE part_1 SET v = 'meanwhile' WHERE id = 4});
others_go_on('a partition loaded in bulk', 'part');
goes_on('part', 'a partition loaded in bulk');
is(source(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM part WHERE id IN (1, 2, 3, 4, 60)}), '1 unseen, 3 meanwhile, 4 meanwhile, 60 unseen',
	'a partition loaded in bulk: what no trigger has seen has come back');
is(target(q{SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgrelid IN ('part'::regclass, 'part_1'::regclass) AND tgname LIKE 'rehome\_capture%'}), 'A',
	'a partition loaded in bulk: capture is as it was');
target(q{ALTER TABLE other DISABLE TRIGGER USER; ALTER TABLE other ENABLE TRIGGER USER});
only_paused('other', 'at the target capture is missing or disabled, or does not see what is written to tables that inherit from it', 'a plain table loaded in bulk');
target(q{UPDATE other SET v = 'meanwhile' WHERE id = 3; DELETE FROM part_1 WHERE id = 60; SELECT rehome.resume_table('k', 'other'); CALL rehome.sync('k')});
is(source(q{SELECT v FROM other WHERE id = 3}), 'meanwhile', 'a plain table loaded in bulk: writers go on');

# A table with partitions, truncated while it is paused by hand.
target(q{UPDATE part SET v = 'seen'; CALL rehome.sync('k'); SELECT rehome.pause_table('k', 'part', 'the archive is moved')});
only_paused('part', 'the archive is moved', 'by hand');
others_go_on('by hand', 'part');
# the batch that was under way has ended
target(q{UPDATE part SET v = 'late' WHERE id = 1});
others_go_on('by hand, written to', 'part');
is(source(q{SELECT v FROM part WHERE id = 1}), 'seen', 'by hand: it is left out');
target(q{TRUNCATE part; INSERT INTO part SELECT i, '2020-02-02', 'truncated' FROM generate_series(1, 9) AS i});
target(q{CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2021-01-01') TO ('2022-01-01'); INSERT INTO part VALUES (10, '2021-01-01', 'another partition')});
source(q{CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2021-01-01') TO ('2022-01-01'); GRANT ALL ON part_2 TO rehome_src});
goes_on('part', 'by hand');
is(source('SELECT count(*) FROM part'), '10', 'by hand: what was truncated is gone');

# DDL at the old home, found when it stands in the way.
source(q{ALTER TABLE word ADD COLUMN must int NOT NULL DEFAULT 1; ALTER TABLE word ALTER COLUMN must DROP DEFAULT});
target(q{INSERT INTO word VALUES (100, 'REFUSED')});
only_paused('word', 'at the source column must of type integer was added', 'at the old home');
others_go_on('at the old home', 'word');
is((sqlstate_of($pair->target, q{SELECT rehome.resume_table('k', 'word')}, 'back'))[0], '23502', 'at the old home: it cannot go on like that');
source(q{ALTER TABLE word DROP COLUMN must});
goes_on('word', 'at the old home');
source(q{ALTER TABLE word RENAME said TO told});
target(q{UPDATE word SET said = 'AGAIN' WHERE id = 100});
only_paused('word', 'at the source column said was renamed to told', 'renamed at the old home');
others_go_on('renamed at the old home', 'word');
source(q{ALTER TABLE word RENAME told TO said});
goes_on('word', 'renamed at the old home');

# What happens to a paused table that no trigger sees, on either side.
target(q{SELECT rehome.pause_table('k', 'word'); ALTER TABLE word DISABLE TRIGGER ALL; UPDATE word SET said = 'OFF' WHERE id = 7});
goes_on('word', 'capture off while paused');
is(source('SELECT said FROM word WHERE id = 7'), 'off', 'capture off while paused: what no trigger has seen has come back');
target(q{BEGIN; ALTER TABLE word RENAME said TO told; ALTER TABLE word DISABLE TRIGGER rehome_capture; UPDATE word SET told = 'BOTH' WHERE id = 8; COMMIT});
only_paused('word', 'at the target column said was renamed to told', 'renamed and capture off');
target(q{ALTER TABLE word RENAME told TO said; ALTER TABLE word ENABLE ALWAYS TRIGGER rehome_capture});
goes_on('word', 'renamed and capture off');
is(source('SELECT said FROM word WHERE id = 8'), 'both', 'renamed and capture off: what no trigger has seen has come back');
target(q{SELECT rehome.pause_table('k', 'word')});
source(q{ALTER TABLE word DROP COLUMN said; ALTER TABLE word ADD COLUMN said text});
goes_on('word', 'altered at the old home while paused');
is(source('SELECT count(*) FROM word WHERE said IS NULL'), '0', 'altered at the old home while paused: all rows have come back');

# The old home's table is another one: it gets rows, capture and fence.
source(q{BEGIN; CREATE TABLE word_new (LIKE word INCLUDING ALL); GRANT ALL ON word_new TO rehome_src;
	ALTER TABLE word RENAME TO word_old; ALTER TABLE word_new RENAME TO word; COMMIT});
is((sqlstate_of($pair->target, q{CALL rehome.sync('k')}, 'back'))[0], 'RH009', 'replaced: sync leaves it out');
like(target(q{SELECT reason FROM rehome.table_map WHERE paused}), qr/^at the source triggers of capture or fence are missing/, 'replaced: and says why');
source('DROP TABLE word_old');
goes_on('word', 'replaced');
is((sqlstate_of($pair->source, q{INSERT INTO word VALUES (1000, 'wrong side')}, 'back'))[0], '25006', 'replaced: it has its fence');

# The target dies while a table is paused; and rollback as part of a transaction
# wants all tables to have caught up.
target(q{SELECT rehome.pause_table('k', 'item')});
target(q{UPDATE item SET note = 'crash' WHERE id = 5; UPDATE other SET v = 'crash' WHERE id = 5});
ok(wait_until($pair->source, q{SELECT v = 'crash' FROM other WHERE id = 5}, undef, 'back'), 'crash: another table is brought back');
kill_and_start($pair->target);
target(q{UPDATE other SET v = 'again' WHERE id = 5});
is((sqlstate_of($pair->target, q{CALL rehome.sync('k')}, 'back'))[0], 'RH009', 'crash: sync leaves it out');
is(source('SELECT v FROM other WHERE id = 5'), 'again', 'crash: and brings the others back');
is(source('SELECT note FROM item WHERE id = 5'), 'new 5', 'crash: the paused table does not');
is((sqlstate_of($pair->target, q{BEGIN; SELECT rehome.resume_table('k', 'item'); CALL rehome.rollback('k')}, 'back'))[0], 'RH009', 'rollback at once is refused');
goes_on('item', 'crash');
is(source('SELECT note FROM item WHERE id = 5'), 'crash', 'crash: and has its changes');

# Paused while rollback drains.
{
	my $lock = hold_lock($pair->target, debug_lock(), 'back');
	target(q{UPDATE other SET v = 'drained' WHERE id = 6});
	my $call = start_psql($pair->target, q{SET rehome.lock_timeout = '60s'; CALL rehome.rollback('k')}, dbname => 'back', debug_point => 'reverse-applied:wait');
	ok(wait_for_lock_waiter($pair->target, debug_lock(), 'back'), 'paused meanwhile: rollback drains');
	target(q{SELECT rehome.pause_table('k', 'item', 'meanwhile')});
	$lock->quit;
	my $result = finish_psql($call);
	is($result->{sqlstate}, 'RH009', 'paused meanwhile: rollback is refused') or diag($result->{stderr});
	is(target('SELECT authority FROM rehome.status'), 'target', 'paused meanwhile: authority stays');
	goes_on('item', 'paused meanwhile');
}

# Altered while it drains: found under the locks.
for my $call (q{CALL rehome.rollback('k')}, q{BEGIN; CALL rehome.rollback('k'); COMMIT})
{
	my $reader = $pair->target->background_psql('back');
	my $to = $call =~ /BEGIN/ ? 14 : 15;
	$reader->query_safe('BEGIN; SELECT count(*) FROM item');
	target(q{SELECT rehome.pause('k')});
	target(q{SELECT rehome.resume('k')}) if $call !~ /BEGIN/;
	my $ddl = start_psql($pair->target, "ALTER TABLE item ALTER COLUMN price TYPE numeric($to, 2) USING price * 2", dbname => 'back', name => 'ddl');
	ok(wait_until($pair->target, q{SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE application_name = 'ddl'}), 'altered meanwhile: DDL is in line');
	my $roller = start_psql($pair->target, "SET rehome.lock_timeout = '60s'; SET rehome.lock_retries = 100; " . ($call =~ /BEGIN/ ? "SELECT rehome.resume('k'); " : '') . $call, dbname => 'back', name => 'roller');
	ok(wait_until($pair->target, q{SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE application_name = 'roller'}), 'altered meanwhile: rollback behind it');
	$reader->query_safe('COMMIT');
	$reader->quit;
	is(finish_psql($ddl)->{sqlstate}, '00000', 'altered meanwhile: the DDL is done');
	my $result = finish_psql($roller);
	is($result->{sqlstate}, 'RH009', "altered meanwhile: refused: $call") or diag($result->{stderr});
	only_paused('item', "at the target column price is of type numeric($to,2) instead of numeric(" . (29 - $to) . ',2)', 'altered meanwhile');
	goes_on('item', 'altered meanwhile');
	is(source('SELECT sum(price) FROM item'), target('SELECT sum(price) FROM item'), 'altered meanwhile: all rows have come back');
}

# Found by rollback itself, and then rolled back.
target(q{SELECT rehome.pause('k'); ALTER TABLE other RENAME v TO w; SELECT rehome.resume('k')});
only_paused('other', 'at the target column v was renamed to w', 'rollback');
is((sqlstate_of($pair->target, q{CALL rehome.rollback('k')}, 'back'))[0], 'RH009', 'rollback: refused');
target(q{ALTER TABLE other RENAME w TO v; SELECT rehome.resume_table('k', 'other')});
my $result = finish_psql(start_psql($pair->target, q{CALL rehome.rollback('k')}, dbname => 'back'));
is($result->{sqlstate}, '00000', 'rollback: done, with a table that had yet to catch up') or diag($result->{stderr});
ok($pair->wait_for_state('k', 'syncing'), 'rolled back');
source(q{UPDATE other SET v = 'home' WHERE id = 1; UPDATE item SET note = 'home' WHERE id = 1});
target(q{CALL rehome.sync('k')});
is(target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('k', mode => 'rows') WHERE NOT ok}), '', 'and in sync');

# What a row cannot do without at the new home matters when rows come from the old.
target(q{CALL rehome.cutover('k')});
target(q{ALTER TABLE other ADD COLUMN must int NOT NULL DEFAULT 1; ALTER TABLE other ALTER COLUMN must DROP DEFAULT; INSERT INTO other VALUES (7000, 'v', 1); CALL rehome.sync('k')});
is(target('SELECT count(*) FROM rehome.table_map WHERE paused'), '0', 'a column that may not be null: rows go back without it');
target(q{CALL rehome.rollback('k')});
source(q{INSERT INTO other VALUES (7001, 'w')});
only_paused('other', 'at the target column must of type integer was added', 'a column that may not be null, and rows that come');
target(q{ALTER TABLE other DROP COLUMN must; SELECT rehome.resume_table('k', 'other'); CALL rehome.sync('k')});
is(target('SELECT count(*) FROM other WHERE id >= 7000'), '2', 'a column that may not be null: gone, and in sync');

# Completed with a table that was left out: it is said.
target(q{CALL rehome.cutover('k'); SELECT rehome.pause_table('k', 'word'); UPDATE word SET said = 'NEVER' WHERE id = 9});
$result = finish_psql(start_psql($pair->target, q{CALL rehome.complete('k')}, dbname => 'back'));
is($result->{sqlstate}, '00000', 'completed');
like($result->{stderr}, qr/WARNING:  RH009: the old home of slice "main" of migration "k" lacks changes.*public\.word: /s, 'and what the old home lacks is told');

done_testing();
