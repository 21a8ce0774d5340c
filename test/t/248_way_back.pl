# After a cutover: rows that are on one side only, because they were refused or
# are gone at the source, are not made the same by what goes back; and what the
# source would refuse in the end is refused while there is a choice.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'back', role => 1);
my ($source, $target) = ($pair->source, $pair->target);

sub ids
{
	my ($side, $what, $where) = @_;
	my $method = "sql_$side";
	return $pair->$method("SELECT coalesce(string_agg(id || ' ' || v, ', ' ORDER BY id), '') FROM $what" . ($where ? " WHERE $where" : ''));
}

for my $bypass (0, 1)
{
	my $how = $bypass ? 'triggers bypassed' : 'triggers fire';
	next if $bypass && $pair->source_version < 150000;
	$pair->sql_source('GRANT SET ON PARAMETER session_replication_role TO rehome_src') if $bypass;
	$pair->sql_source(q{
		CREATE TABLE refused (id int PRIMARY KEY, v text);
		INSERT INTO refused SELECT i, CASE WHEN i > 7 THEN 'bad' ELSE 'r' || i END FROM generate_series(1, 9) AS i;
		CREATE TABLE marked (id int PRIMARY KEY, v text); INSERT INTO marked SELECT i, 'm' || i FROM generate_series(1, 5) AS i;
		CREATE TABLE ignored (id int PRIMARY KEY, v text); INSERT INTO ignored SELECT i, 'i' || i FROM generate_series(1, 5) AS i;
		CREATE TABLE swapped (id int PRIMARY KEY, v int UNIQUE, only_here text); INSERT INTO swapped SELECT i, i, 'here ' || i FROM generate_series(1, 5) AS i;});
	$pair->sql_target(q{
		CREATE TABLE refused (id int PRIMARY KEY, v text CHECK (v <> 'bad'));
		CREATE TABLE marked (id int PRIMARY KEY, v text, gone boolean NOT NULL DEFAULT false);
		CREATE TABLE ignored (id int PRIMARY KEY, v text);
		CREATE TABLE swapped (id int PRIMARY KEY, v int UNIQUE);});
	$pair->grant_source('public');
	$pair->import_foreign_schema('public', 'src', qw(refused marked ignored swapped));
	$pair->sql_target(q{
		SELECT rehome.create_migration('b', 'src', 'there and back');
		SELECT rehome.add_table('b', format('src.%I', t)::regclass, t::regclass) FROM unnest(ARRAY['refused', 'marked', 'ignored', 'swapped']) AS t;
		SELECT rehome.set_table_rule('b', 'refused', on_error => 'quarantine');
		SELECT rehome.set_table_rule('b', 'marked', on_delete => 'mark', delete_column => 'gone');
		SELECT rehome.set_table_rule('b', 'ignored', on_delete => 'ignore');
		CALL rehome.copy('b')});
	$pair->sql_source('DELETE FROM marked WHERE id = 2; DELETE FROM ignored WHERE id IN (2, 3)');
	$pair->sql_target(q{CALL rehome.sync('b'); SELECT rehome.accept_quarantine('b', 'as agreed'); CALL rehome.cutover('b')});

	# row by row
	$pair->sql_target(q{
		INSERT INTO refused VALUES (9, 'taken'); UPDATE refused SET v = v || '!' WHERE id = 1;
		UPDATE marked SET v = v || '!'; UPDATE marked SET gone = true WHERE id = 3;
		UPDATE ignored SET v = v || '!'; INSERT INTO ignored VALUES (20, 'new'); UPDATE ignored SET id = 30 WHERE id = 3;
		CALL rehome.sync('b')});
	is(ids('source', 'refused', 'id IN (1, 8, 9)'), '1 r1!, 8 bad, 9 taken', "$how: a row that was refused is as it was, unless another one has its place");
	is($pair->sql_target(q{SELECT string_agg(source_key->>'id', ',') FROM rehome.quarantine WHERE migration = 'b'}), '8', "$how: which takes it out of quarantine");
	is(ids('source', 'marked'), '1 m1!, 4 m4!, 5 m5!', "$how: rows that are marked as gone are gone");
	is(ids('source', 'ignored'), '1 i1!, 4 i4!, 5 i5!, 20 new, 30 i3!', "$how: rows that were kept do not come back, others do");
	is($pair->sql_target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('b', mode => 'rows') WHERE NOT ok}), '', "$how: verified");

	# all at once
	$pair->sql_target(q{
		BEGIN; TRUNCATE refused, ignored; INSERT INTO refused VALUES (1, 'anew'); INSERT INTO ignored VALUES (1, 'anew'), (2, 'anew'); COMMIT;
		ALTER TABLE marked ALTER v TYPE varchar(100)});
	like((sqlstate_of($target, q{CALL rehome.sync('b')}, 'back'))[1], qr/are paused/, "$how: a column with another type is noticed");
	is($pair->sql_target(q{SELECT paused FROM rehome.table_map WHERE target = 'marked'::regclass}), 't', "$how: a column with another type has its table wait");
	$pair->sql_target(q{SELECT rehome.resume_table('b', 'marked'); CALL rehome.sync('b')});
	is(ids('source', 'refused'), '1 anew, 8 bad', "$how: as a whole, rows that were refused stay");
	is(ids('source', 'marked'), '1 m1!, 4 m4!, 5 m5!', "$how: as a whole, rows that are marked as gone are gone");
	is(ids('source', 'ignored'), '1 anew, 2 anew', "$how: as a whole, rows come that are new");

	# unique values exchanged, where a part of the row is here only
	my ($sqlstate) = sqlstate_of($target, q{UPDATE swapped SET v = v + 10; UPDATE swapped SET v = CASE v WHEN 11 THEN 2 WHEN 12 THEN 1 ELSE v - 10 END}, 'back');
	is($sqlstate, '00000', "$how: unique values are exchanged");
	($sqlstate) = sqlstate_of($target, q{CALL rehome.sync('b')}, 'back');
	is($sqlstate, '00000', "$how: so they are at the source");
	is($pair->sql_source(q{SELECT string_agg(id || ' ' || v || ' ' || only_here, ', ' ORDER BY id) FROM swapped WHERE id < 4}), '1 2 here 1, 2 1 here 2, 3 3 here 3', "$how: and what only the source has of a row stays");

	$pair->sql_target(q{CALL rehome.rollback('b'); CALL rehome.sync('b')});
	is(ids('source', 'refused'), '1 anew, 8 bad', "$how: rolled back, the source is whole");
	is($pair->sql_target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('b', mode => 'rows') WHERE NOT ok}), '', "$how: rolled back, verified");
	$pair->sql_target(q{CALL rehome.cancel('b'); SELECT rehome.drop_migration('b'); DROP TABLE refused, marked, ignored, swapped; DROP SCHEMA src CASCADE});
	$pair->sql_source('DROP TABLE refused, marked, ignored, swapped');
	$pair->sql_source('REVOKE SET ON PARAMETER session_replication_role FROM rehome_src') if $bypass;
}

# Where others would go with the rows that are to be taken out, these stay.
$pair->sql_source(q{
	CREATE TABLE cause (id int PRIMARY KEY, v int UNIQUE); INSERT INTO cause VALUES (1, 1), (2, 2);
	CREATE TABLE effect (id int PRIMARY KEY, v text, cause int REFERENCES cause ON DELETE CASCADE); INSERT INTO effect VALUES (1, 'a', 1), (2, 'b', 2)});
$pair->sql_target('CREATE TABLE cause (id int PRIMARY KEY, v int UNIQUE DEFERRABLE)');
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(cause));
$pair->sql_target(q{
	SELECT rehome.create_migration('e', 'src', 'cause and effect'); SELECT rehome.add_table('e', 'src.cause', 'cause');
	CALL rehome.copy('e'); CALL rehome.sync('e'); CALL rehome.cutover('e'); UPDATE cause SET v = 3 - v});
is((sqlstate_of($target, q{CALL rehome.sync('e')}, 'back'))[0], '23505', 'an exchange of what others hang on is refused');
is(ids('source', 'effect'), '1 a, 2 b', 'and nothing of them is gone');
$pair->sql_target(q{UPDATE cause SET v = 10 + v});
$pair->sql_target(q{CALL rehome.sync('e')});
$pair->sql_target(q{UPDATE cause SET v = v - 10; CALL rehome.sync('e'); CALL rehome.rollback('e'); CALL rehome.cancel('e')});
is($pair->sql_source(q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM cause}), '1 2, 2 1', 'by way of other values it goes');
is(ids('source', 'effect'), '1 a, 2 b', 'with all that hangs on it');

# A sequence may feed several tables, here or there, and never goes backwards.
$pair->sql_source(q{
	CREATE TABLE a (id serial PRIMARY KEY, v text); CREATE TABLE b (id serial PRIMARY KEY, v text);
	CREATE SEQUENCE one; CREATE TABLE c (id int PRIMARY KEY DEFAULT nextval('one'), v text); CREATE TABLE d (id int PRIMARY KEY DEFAULT nextval('one'), v text);
	CREATE TABLE unmoved (id int PRIMARY KEY DEFAULT nextval('one'));
	SELECT setval('a_id_seq', 100), setval('b_id_seq', 50), setval('one', 1000)});
$pair->sql_target(q{
	CREATE SEQUENCE one; CREATE TABLE a (id int PRIMARY KEY DEFAULT nextval('one'), v text); CREATE TABLE b (id int PRIMARY KEY DEFAULT nextval('one'), v text);
	CREATE TABLE c (id serial PRIMARY KEY, v text); CREATE TABLE d (id serial PRIMARY KEY, v text)});
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(a b c d));
$pair->sql_target(q{
	SELECT rehome.create_migration('s', 'src', 'sequences'); SELECT rehome.add_table('s', format('src.%I', t)::regclass, t::regclass) FROM unnest(ARRAY['a', 'b', 'c', 'd']) AS t;
	CALL rehome.copy('s'); CALL rehome.sync('s'); CALL rehome.cutover('s')});
is($pair->sql_target(q{SELECT nextval('one'), nextval('c_id_seq'), nextval('d_id_seq')}), '101|1001|1001', 'a sequence of two tables goes on behind both');
$pair->sql_target(q{SELECT setval('c_id_seq', 1500), setval('d_id_seq', 1200), setval('one', 120)});
$pair->sql_source(q{SELECT setval('one', 1100)});
$pair->sql_target(q{CALL rehome.rollback('s')});
is($pair->sql_source(q{SELECT nextval('a_id_seq'), nextval('b_id_seq'), nextval('one')}), '121|121|1501', 'and so does one at the source');
$pair->sql_target(q{CALL rehome.sync('s'); CALL rehome.cancel('s')});

# A table that is to be copied again, as of a moment within a cutover, is.
$pair->sql_source(q{CREATE TABLE again (id int PRIMARY KEY, v text); INSERT INTO again VALUES (1, 'right')});
$pair->sql_target('CREATE TABLE again (id int PRIMARY KEY, v text)');
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(again));
$pair->sql_target(q{
	SELECT rehome.create_migration('r', 'src', 'again'); SELECT rehome.add_table('r', 'src.again', 'again'); CALL rehome.copy('r'); CALL rehome.sync('r');
	SELECT rehome.set_drift_policy('r', 'record', 'again'); UPDATE again SET v = 'wrong'; SELECT rehome.accept_drift('r')});
{
	my $lock = hold_lock($target, debug_lock(), 'back');
	my $cutover = start_psql($target, q{CALL rehome.cutover('r')}, dbname => 'back', debug_point => 'batch-applied:wait');
	wait_for_lock_waiter($target, debug_lock(), 'back');
	my $recopy = start_psql($target, q{SELECT rehome.recopy('r', 'again')}, dbname => 'back', name => 'recopier');
	ok(wait_until($target, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'recopier' AND wait_event_type = 'Lock')}, undef, 'back'), 'it waits for a cutover');
	$lock->quit;
	is(finish_psql($recopy)->{sqlstate}, '00000', 'and has its turn');
	is(finish_psql($cutover)->{sqlstate}, '00000', 'and the cutover goes on');
	is(ids('target', 'again'), '1 right', 'with the table as it is at the source');
	$pair->sql_target(q{CALL rehome.rollback('r'); CALL rehome.cancel('r')});
}

# What the source checks when a transaction ends is checked before the target gives its authority up.
$pair->sql_source(q{
	CREATE TABLE owner (id int PRIMARY KEY, v text); INSERT INTO owner VALUES (1, 'o1');
	CREATE TABLE owned (id int PRIMARY KEY, v text, owner int REFERENCES owner DEFERRABLE INITIALLY DEFERRED); INSERT INTO owned VALUES (1, 'a', 1)});
$pair->sql_target('CREATE TABLE owned (id int PRIMARY KEY, v text, owner int)');
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(owned));
$pair->sql_target(q{
	SELECT rehome.create_migration('d', 'src', 'checked later'); SELECT rehome.add_table('d', 'src.owned', 'owned');
	CALL rehome.copy('d'); CALL rehome.sync('d'); CALL rehome.cutover('d'); INSERT INTO owned VALUES (2, 'orphan', 77)});
for my $call (q{CALL rehome.rollback('d')}, q{BEGIN; CALL rehome.rollback('d'); COMMIT})
{
	my ($sqlstate, $message) = sqlstate_of($target, $call, 'back');
	is($sqlstate, '23503', "a row that the source refuses in the end: $call") or diag($message);
	is($pair->sql_target(q{SELECT state || ' ' || authority FROM rehome.status WHERE migration = 'd'}), 'cut_over target', 'leaves the target with its authority');
}
$pair->sql_target(q{UPDATE owned SET owner = 1 WHERE id = 2; CALL rehome.rollback('d'); CALL rehome.sync('d')});
is(ids('source', 'owned'), '1 a, 2 orphan', 'put right there, it goes back');
$pair->sql_target(q{CALL rehome.cancel('d')});

# ---------------------------------------------------------------------------
# Rows that a filter leaves at the source are nobody's here; those of the target
# are its own whatever they are changed to, also when they came back so.

for my $bypass (0, 1)
{
	my $how = $bypass ? 'filter, triggers bypassed' : 'filter';
	next if $bypass && $pair->source_version < 150000;
	$pair->sql_source('GRANT SET ON PARAMETER session_replication_role TO rehome_src') if $bypass;
	$pair->sql_source(q{CREATE TABLE part (id int PRIMARY KEY, m text, u int UNIQUE);
		INSERT INTO part VALUES (1, 'a', 1), (2, 'a', 2), (3, NULL, 3), (4, 'a', 4)});
	$pair->sql_target('CREATE TABLE part (id int PRIMARY KEY, m text, u int UNIQUE)');
	$pair->grant_source('public');
	$pair->import_foreign_schema('public', 'src', qw(part));
	$pair->sql_target(q{
		SELECT rehome.create_migration('f', 'src', 'a part of a table');
		SELECT rehome.add_table('f', 'src.part', 'part', filter => 'm IS NOT NULL');
		CALL rehome.copy('f'); CALL rehome.sync('f'); CALL rehome.cutover('f')});
	my $parts = q{SELECT string_agg(concat_ws(' ', id, m, u), ', ' ORDER BY id) FROM part};
	my $verified = sub { return join ' ', map { $pair->sql_target("SELECT concat_ws(',', missing, extra, differing, ok) FROM rehome.verify('f', mode => '$_')") } qw(rows hash) };
	my $back = sub { my ($sql) = @_; $pair->sql_target("$sql; CALL rehome.sync('f')"); return $pair->sql_source($parts) };

	is($back->(q{UPDATE part SET m = NULL WHERE id IN (1, 2); INSERT INTO part VALUES (5, NULL, 5), (6, NULL, 6)}),
		'1 1, 2 2, 3 3, 4 a 4, 5 5, 6 6', "$how: rows that leave it, or begin outside of it, are brought back");
	is($verified->(), '0,0,0,t 0,0,0,t', "$how: and are what the target has");
	is($back->(q{UPDATE part SET m = 'b' WHERE id = 1; DELETE FROM part WHERE id IN (2, 6); 
		UPDATE part SET u = 40 WHERE id = 4; UPDATE part SET m = 'in', u = 4 WHERE id = 5}),
		'1 b 1, 3 3, 4 a 40, 5 in 4', "$how: what is written to them next, too");
	is($verified->(), '0,0,0,t 0,0,0,t', "$how: they are equal");
	is($back->(q{UPDATE part SET m = NULL WHERE id = 1; UPDATE part SET id = 7 WHERE id = 1; UPDATE part SET m = NULL, u = u + 100 WHERE id = 5}),
		'3 3, 4 a 40, 5 104, 7 1', "$how: a key that changes");
	is($back->(q{UPDATE part SET u = u + 100 WHERE id = 5}), '3 3, 4 a 40, 5 204, 7 1', "$how: a unique value of one outside");
	is($back->(q{BEGIN; TRUNCATE part; INSERT INTO part VALUES (5, NULL, 7), (8, NULL, 8), (9, 'x', 9); COMMIT}), '3 3, 5 7, 8 8, 9 x 9', "$how: brought as a whole");
	is($back->(q{BEGIN; TRUNCATE part; INSERT INTO part VALUES (8, NULL, 8), (9, 'y', 9); COMMIT}), '3 3, 8 8, 9 y 9', "$how: and again");
	is($verified->(), '0,0,0,t 0,0,0,t', "$how: they are equal");
	my ($sqlstate, $message) = sqlstate_of($target, q{INSERT INTO part VALUES (3, 'mine', 33); CALL rehome.sync('f')}, 'back');
	like("$sqlstate $message", qr/^23505 rows written to "part" since cutover have keys that rows outside the filter have/, "$how: a row that was left there keeps its key");
	is($back->(q{DELETE FROM part WHERE id = 3}), '3 3, 8 8, 9 y 9', "$how: and stays");

	$pair->sql_target(q{UPDATE part SET m = NULL WHERE id = 9; CALL rehome.rollback('f')});
	is($pair->sql_source($parts), '3 3, 8 8, 9 9', "$how: a rollback brings them back");
	$pair->sql_target(q{CALL rehome.sync('f')});
	is($pair->sql_target('SELECT count(*) FROM part'), '0', "$how: and they are the source's from then on");
	is($verified->(), '0,0,0,t 0,0,0,t', "$how: which a verification knows");
	$pair->sql_target(q{CALL rehome.cutover('f')});
	($sqlstate) = sqlstate_of($target, q{INSERT INTO part VALUES (9, 'mine', 99); CALL rehome.sync('f')}, 'back');
	is($sqlstate, '23505', "$how: after the next cutover, too");
	is($back->(q{DELETE FROM part WHERE id = 9; INSERT INTO part VALUES (10, NULL, 10)}), '3 3, 8 8, 9 9, 10 10', "$how: but those that are written now");
	my $outside = q{SELECT count(*) FROM pg_class WHERE relname LIKE 'outside\_%'};
	is($pair->sql_source($outside), '1', "$how: their keys are kept at the source");
	$pair->sql_target(q{CALL rehome.complete('f')});
	is($pair->sql_source($outside), '0', "$how: until the end");
	$pair->sql_target(q{SELECT rehome.drop_migration('f'); DROP FOREIGN TABLE src.part; DROP TABLE part});
	$pair->sql_source('DROP TABLE part; DROP SCHEMA rehome_source CASCADE');
	$pair->sql_source('REVOKE SET ON PARAMETER session_replication_role FROM rehome_src') if $bypass;
}

# ---------------------------------------------------------------------------
# What the source refuses: the hint is about what it refuses.

$pair->sql_source(q{
	CREATE TABLE whole (id int PRIMARY KEY); INSERT INTO whole VALUES (1);
	CREATE TABLE strict (id int PRIMARY KEY, v int NOT NULL CHECK (v > 0), whole int REFERENCES whole);
	CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)});
$pair->sql_target('CREATE TABLE strict (id int PRIMARY KEY, v int, whole int); CREATE TABLE parted (id int PRIMARY KEY)');
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(strict parted));
$pair->sql_target(q{
	SELECT rehome.create_migration('h', 'src', 'refused there');
	SELECT rehome.add_table('h', 'src.strict', 'strict'); SELECT rehome.add_table('h', 'src.parted', 'parted');
	CALL rehome.copy('h'); CALL rehome.sync('h'); CALL rehome.cutover('h')});
for ([ 'strict', '1, -1, 1', '23514', qr/^The source takes such rows from nobody: change them at the target/ ], [ 'strict', '1, NULL, 1', '23502', qr/^The source takes such rows from nobody/ ],
	[ 'parted', '20', '23514', qr/^The source takes such rows from nobody/ ], [ 'strict', '1, 1, 2', '23503', qr/^Let the connecting role bypass foreign keys/ ])
{
	my ($table, $values, $expected, $advice) = @$_;
	$pair->sql_target("INSERT INTO $table VALUES ($values)");
	my ($sqlstate, undef, undef, $hint) = sqlstate_of($target, q{CALL rehome.sync('h')}, 'back');
	is($sqlstate, $expected, "a row that the source refuses: $table ($values)");
	like($hint, $advice, '... and what to do about it');
	$pair->sql_target("DELETE FROM $table; CALL rehome.sync('h')");
}
$pair->sql_target(q{CALL rehome.rollback('h'); CALL rehome.cancel('h')});

done_testing();
