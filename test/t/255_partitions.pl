# Partitions of a source table that go, as those of a table with a partition a day
# do: their rows go from the target, and nothing else is read.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

# What a vacuum has a lock on is looked at again later.
my $pair = new_pair(dbname => 'parts', target_conf => 'autovacuum = off');
my ($source, $target) = ($pair->source, $pair->target);

# [table, its DDL at the source, that of the target if it is another, columns of the map]
my @tables = (
	[ 'day', q{CREATE TABLE day (id int, at date, v text, UNIQUE (v, at), PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
		CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM ('2024-01-01') TO ('2024-01-02'); CREATE TABLE day_2 PARTITION OF day FOR VALUES FROM ('2024-01-02') TO ('2024-01-03');
		CREATE TABLE day_3 PARTITION OF day FOR VALUES FROM ('2024-01-03') TO (MAXVALUE); CREATE TABLE day_0 PARTITION OF day DEFAULT;
		INSERT INTO day SELECT i, '2024-01-01'::date + i % 3, 'd' || i FROM generate_series(1, 300) AS i},
	  'CREATE TABLE day (id int, at date, v text UNIQUE, PRIMARY KEY (id, at))' ],
	[ 'two', q{CREATE TABLE two (a bigint, b numeric, v text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a, b);
		CREATE TABLE two_1 PARTITION OF two FOR VALUES FROM (MINVALUE, MINVALUE) TO (-5, 0); CREATE TABLE two_2 PARTITION OF two FOR VALUES FROM (-5, 0) TO (5, 0.5);
		CREATE TABLE two_3 PARTITION OF two FOR VALUES FROM (5, 0.5) TO (MAXVALUE, MAXVALUE);
		INSERT INTO two SELECT i % 10, i / 4.0, 't' || i FROM generate_series(-100, 100) AS i} ],
	[ 'kind', q{CREATE TABLE kind (id int, k boolean, n int, v text) PARTITION BY LIST (k); CREATE UNIQUE INDEX kind_key ON kind (id, k, n);
		CREATE TABLE kind_t PARTITION OF kind FOR VALUES IN (true) PARTITION BY HASH (n); CREATE TABLE kind_f PARTITION OF kind FOR VALUES IN (false); CREATE TABLE kind_n PARTITION OF kind FOR VALUES IN (NULL);
		CREATE TABLE kind_t0 PARTITION OF kind_t FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE kind_t1 PARTITION OF kind_t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		INSERT INTO kind SELECT i, i % 2 = 0, i, 'k' || i FROM generate_series(1, 40) AS i},
	  'CREATE TABLE kind (id int PRIMARY KEY, k boolean, n int, v text)' ],
	[ 'moved', q{CREATE TABLE moved (id int, n int, v text, PRIMARY KEY (id, n)) PARTITION BY RANGE (n);
		CREATE TABLE moved_1 PARTITION OF moved FOR VALUES FROM (0) TO (10); CREATE TABLE moved_2 PARTITION OF moved FOR VALUES FROM (10) TO (20); CREATE TABLE moved_3 PARTITION OF moved FOR VALUES FROM (20) TO (30);
		INSERT INTO moved SELECT i, i, 'm' || i FROM generate_series(0, 29) AS i},
	  'CREATE TABLE moved (id int PRIMARY KEY, n int, v text)', q{'{"id": "id", "n": "n + 1000", "v": "v"}'} ],
	[ 'marked', q{CREATE TABLE marked (at timestamptz, id int, v text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
		CREATE TABLE marked_1 PARTITION OF marked FOR VALUES FROM ('2024-03-31 01:30+01') TO ('2024-03-31 03:30+02'); CREATE TABLE marked_2 PARTITION OF marked FOR VALUES FROM ('2024-03-31 03:30+02') TO ('infinity');
		INSERT INTO marked SELECT '2024-03-31 01:30+01'::timestamptz + i * interval '6 minutes', i, 'r' || i FROM generate_series(0, 19) AS i},
	  'CREATE TABLE marked (happened timestamptz, id int, v text, gone boolean NOT NULL DEFAULT false, PRIMARY KEY (happened, id))', q{'{"happened": "at", "id": "id", "v": "v"}'} ],
);
my @same = (qw(day two kind), { source => 'moved', target => '(SELECT id, n - 1000 AS n, v FROM moved)' },
	{ source => 'marked', target => '(SELECT happened AS at, id, v FROM marked WHERE NOT gone)' });

for (@tables)
{
	my ($name, $there, $here, $columns) = @$_;
	$pair->sql_source($there);
	$pair->sql_target($here // $there =~ s/INSERT INTO.*//sr);
}
$pair->import_foreign_schema('public', 'src', map { $_->[0] } @tables);
$pair->sql_target(q{SELECT rehome.create_migration('p', 'src', 'partitions that go')});
for (@tables)
{
	my ($name, $there, $here, $columns) = @$_;
	$pair->sql_target("SELECT rehome.add_table('p', 'src.$name', '$name'" . ($columns ? ", columns => $columns" : '') . ')');
}
$pair->sql_target(q{SELECT rehome.set_table_rule('p', 'marked', on_delete => 'mark', delete_column => 'gone')});
$pair->sql_target(q{CALL rehome.copy('p')});

# sync SQL, NAME, whole => table names: after the SQL at the source a batch makes
# both sides the same, and only those tables were read as a whole.
sub sync
{
	my ($sql, $name, %more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->sql_target('SELECT count(*) FROM rehome.verify(\'p\')');
	$pair->sql_source($sql);
	$pair->sql_target(q{CALL rehome.sync('p')});
	same_content($pair, \@same, $name);
	is($pair->sql_target(q{SELECT coalesce(string_agg(t.target::text, ' ' ORDER BY t.id), '') FROM rehome.full_pass p JOIN rehome.table_map t ON t.id = p.table_map_id WHERE p.unknown IS NOT NULL}),
		$more{whole} // '', "$name: what was read as a whole");
	return;
}

sync(q{DROP TABLE day_1; DROP TABLE marked_1; DROP TABLE kind_n}, 'partitions that are dropped');
is($pair->sql_target('SELECT count(*) FROM marked WHERE gone'), '10', 'what a table does with rows that are gone is done with these');
sync(q{DROP TABLE two_2}, 'a range of several columns, with negative and broken numbers');
sync(q{DROP TABLE kind_t}, 'one that has partitions itself, by hash');
sync(q{ALTER TABLE two DETACH PARTITION two_3}, 'one that is detached');

# Rows that leave it before it goes, or whose unique values others take.
sync(q{BEGIN; INSERT INTO day VALUES (1001, '2024-01-03', 'd1'); UPDATE day SET at = '2024-01-03' WHERE id IN (4, 7); UPDATE day SET v = 'late' WHERE id = 10;
	INSERT INTO day VALUES (1002, '2024-01-05', (SELECT v FROM day_2 WHERE id = 13)); ALTER TABLE day DETACH PARTITION day_2;
	INSERT INTO day VALUES (1003, '2024-01-02', 'by default'); COMMIT},
	'rows that move out of it, and others that come in its place');
sync(q{DROP TABLE day_0}, 'a default partition', whole => 'day');

# Where its rows are cannot be told at the target.
sync(q{DROP TABLE moved_1}, 'a bound of a column that is computed', whole => 'moved');

# Others that were touched meanwhile are not taken for untouched.
$pair->sql_source(q{CREATE TABLE day_6 PARTITION OF day FOR VALUES FROM ('2023-06-01') TO ('2023-07-01'); INSERT INTO day SELECT i, '2023-06-06', 's' || i FROM generate_series(600, 620) AS i;
	CREATE TABLE day_7 PARTITION OF day FOR VALUES FROM ('2023-07-01') TO ('2023-08-01'); INSERT INTO day SELECT i, '2023-07-07', 's' || i FROM generate_series(700, 720) AS i});
$pair->sql_target(q{CALL rehome.sync('p')}) for 1 .. 2;
sync(q{ALTER TABLE day_6 DISABLE TRIGGER USER; DELETE FROM day_6 WHERE id < 610; ALTER TABLE day_6 ENABLE TRIGGER USER; DROP TABLE day_7},
	'one that went while the triggers of another were disabled', whole => 'day');
$pair->sql_source(q{CREATE TABLE day_8 PARTITION OF day FOR VALUES FROM ('2023-08-01') TO ('2023-09-01'); INSERT INTO day SELECT i, '2023-08-08', 's' || i FROM generate_series(800, 820) AS i});
$pair->sql_target(q{CALL rehome.sync('p')}) for 1 .. 2;
sync(q{DO $$ DECLARE t name; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'day_6'::regclass AND tgname LIKE 'rehome%truncate' LOOP EXECUTE format('DROP TRIGGER %I ON day_6', t); END LOOP; END $$;
	TRUNCATE day_6; DROP TABLE day_8}, 'or dropped', whole => 'day');
sync(q{INSERT INTO day VALUES (900, '2023-06-06', 'again'); TRUNCATE day_3; DROP TABLE day_6}, 'TRUNCATE of one, another one gone', whole => 'day');

# Partitions of a target.  What is in them is what the source has, whoever has
# attached, detached or emptied them; one that is made for what will come costs
# nothing, and is guarded.
$pair->sql_source(q{CREATE TABLE own (id int, at date DEFAULT now(), v text, PRIMARY KEY (id, at)); INSERT INTO own SELECT i, '2024-01-01'::date + i % 2, 'o' || i FROM generate_series(1, 20) AS i});
$pair->sql_target(q{CREATE TABLE own (id int, at date DEFAULT now(), v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE own_1 PARTITION OF own FOR VALUES FROM ('2024-01-01') TO ('2024-01-02'); CREATE TABLE own_2 PARTITION OF own FOR VALUES FROM ('2024-01-02') TO ('2024-01-03')});
$pair->import_foreign_schema('public', 'src', 'own');
$pair->sql_target(q{SELECT rehome.create_migration('q', 'src', 'partitions of a target'); SELECT rehome.add_table('q', 'src.own', 'own'); CALL rehome.copy('q')});

# own SQL, NAME, notes => n: after SQL at the target a batch makes it what the
# source is, says so n times, and a verification finds nothing.
sub own
{
	my ($sql, $name, %more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->sql_target('SELECT count(*) FROM rehome.verify(\'q\')') if !$more{verified};
	$pair->sql_target('DELETE FROM rehome.drift');
	$pair->sql_target($sql);
	$pair->sql_target(q{CALL rehome.sync('q')});
	same_content($pair, ['own'], $name);
	is($pair->sql_target(q{SELECT count(*) || ' ' || coalesce(bool_and(kind = 'partitions changed' AND side = 'target' AND resolution = 'repaired'), true) FROM rehome.drift WHERE kind <> 'refused'}),
		($more{notes} // 1) . ' true', "$name: what is noted");
	is($pair->sql_target(q{SELECT coalesce(string_agg(p.unknown, ''), '') FROM rehome.full_pass p JOIN rehome.table_map t ON t.id = p.table_map_id WHERE t.target = 'own'::regclass}),
		($more{notes} // 1) ? 'all of it was read again since' : '', "$name: what was read as a whole");
	is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('q', incremental => true)}), 't', "$name: as a verification finds it");
	is((sqlstate_of($target, 'DELETE FROM own', 'parts'))[0], '25006', "$name: DELETE is refused");
	for ($pair->sql_target(q{SELECT relid::regclass FROM pg_partition_tree('own') WHERE isleaf}) =~ /\S+/g)
	{
		is((sqlstate_of($target, "TRUNCATE $_", 'parts'))[0], '25006', "$name: TRUNCATE of $_ is refused");
	}
	return;
}
own(q{CREATE TABLE own_3 PARTITION OF own FOR VALUES FROM ('2024-01-03') TO ('2024-01-04')}, 'a partition for what will come', notes => 0);
$pair->sql_source(q{INSERT INTO own SELECT i, '2024-01-03', 'new' FROM generate_series(101, 105) AS i});
own('SELECT 1', 'and what has come', notes => 0);
own(q{CREATE TABLE own_4 PARTITION OF own FOR VALUES FROM ('2024-01-04') TO ('2024-01-06') PARTITION BY RANGE (at);
	CREATE TABLE own_4_1 PARTITION OF own_4 FOR VALUES FROM ('2024-01-04') TO ('2024-01-05')}, 'one with partitions', notes => 0);
own(q{BEGIN; CREATE TABLE held (LIKE own_3 INCLUDING ALL); INSERT INTO held SELECT * FROM own_3; ALTER TABLE own DETACH PARTITION own_1;
	CREATE TABLE own_0 (LIKE own INCLUDING ALL); INSERT INTO own_0 VALUES (999, '2024-01-01', 'nobody''s'); ALTER TABLE own ATTACH PARTITION own_0 FOR VALUES FROM ('2024-01-01') TO ('2024-01-02'); COMMIT},
	'one that is exchanged for another');
own(q{BEGIN; CREATE TABLE own_5 (LIKE own INCLUDING ALL); INSERT INTO own_5 VALUES (998, '2024-01-07', 'nobody''s'); ALTER TABLE own ATTACH PARTITION own_5 FOR VALUES FROM ('2024-01-07') TO ('2024-01-08'); COMMIT},
	'one that is attached with rows');
own(q{DROP TABLE own_5}, 'one that is dropped');

# Emptied before anybody has looked: what a batch has brought in the same second.
{
	my $lock = $target->background_psql('parts');
	$pair->sql_target(q{CREATE TABLE own_6 PARTITION OF own FOR VALUES FROM ('2024-01-08') TO ('2024-01-09')});
	$lock->query_safe(q{BEGIN; LOCK TABLE ONLY own IN SHARE UPDATE EXCLUSIVE MODE});
	$pair->sql_source(q{INSERT INTO own SELECT i, '2024-01-08', 'new' FROM generate_series(201, 205) AS i});
	$pair->sql_target(q{CALL rehome.sync('q')});
	is($pair->sql_target('SELECT count(*) FROM own_6'), '5', 'nobody is waited for');
	$pair->sql_target('TRUNCATE own_6');
	$lock->query_safe('COMMIT');
	$lock->quit;
	own('SELECT 1', 'one that is emptied before it is guarded', verified => 1);
}

# Where there is none for its rows the batch says so, and all is well with one.
$pair->sql_target(q{ALTER TABLE own DETACH PARTITION own_2});
is((sqlstate_of($target, q{CALL rehome.sync('q')}, 'parts'))[0], '23514', 'detached: the batch has nowhere to put its rows');
isnt((sqlstate_of($target, q{CALL rehome.cutover('q')}, 'parts'))[0], '00000', 'detached: there is no cutover');
own(q{ALTER TABLE own ATTACH PARTITION own_2 FOR VALUES FROM ('2024-01-02') TO ('2024-01-03')}, 'one that was detached for a while', verified => 1);

# Its triggers were off.
$pair->sql_target(q{ALTER TABLE own_2 DISABLE TRIGGER USER; DELETE FROM own_2; ALTER TABLE own_2 ENABLE TRIGGER USER});
is((sqlstate_of($target, q{CALL rehome.sync('q')}, 'parts'))[0], '00000', 'guard off on a partition: the table goes on');
is($pair->sql_target(q{SELECT count(*) FROM pg_partition_tree('own') p JOIN pg_trigger t ON t.tgrelid = p.relid WHERE t.tgname LIKE 'rehome_guard%' AND t.tgenabled <> 'A'}), '0', 'guard off on a partition: it is on again');
is($pair->sql_target(q{SELECT missing > 0 AND NOT ok FROM rehome.verify('q')}), 't', 'guard off on a partition: a verification finds what was written');
$pair->sql_target(q{SELECT rehome.repair_drift('q'); CALL rehome.sync('q')});
own(q{SELECT 1}, 'guard off on a partition', notes => 0);
$pair->sql_target(q{DROP TRIGGER rehome_guard_truncate ON own_3; TRUNCATE own_3});
is((sqlstate_of($target, q{CALL rehome.sync('q')}, 'parts'))[0], 'RH009', 'no guard on a partition: the table is paused');
$pair->sql_target(q{SELECT rehome.resume_table('q', 'own')});
own(q{SELECT 1}, 'no guard on a partition', notes => 0);

# Attached before a rollback whose COMMIT fails at the source: what recover brings
# there has its rows, too.
$pair->sql_target(q{CALL rehome.cutover('q')});
$pair->sql_source(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no COMMIT here'; END$$;
	CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON rehome_source.slice DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (OLD.authority <> NEW.authority) EXECUTE FUNCTION refuse();
	ALTER TABLE rehome_source.slice ENABLE ALWAYS TRIGGER refuse});
# In one transaction, or the worker brings it before the rollback; what the worker
# does first is to give it the triggers of the others.
$pair->sql_target(q{BEGIN; CREATE TABLE own_7 (LIKE own INCLUDING ALL); INSERT INTO own_7 VALUES (700, '2024-01-09', 'attached');
	ALTER TABLE own ATTACH PARTITION own_7 FOR VALUES FROM ('2024-01-09') TO ('2024-01-10');
	DO $$ DECLARE t record; BEGIN
		FOR t IN SELECT tgname, replace(pg_get_triggerdef(oid), 'own_3', 'own_7') AS def, tgenabled FROM pg_trigger WHERE tgrelid = 'own_3'::regclass AND tgparentid = 0 AND NOT tgisinternal LOOP
			EXECUTE t.def;
			EXECUTE format('ALTER TABLE own_7 %s TRIGGER %I', CASE t.tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'D' THEN 'DISABLE' ELSE 'ENABLE' END, t.tgname);
		END LOOP; END $$;
	CALL rehome.rollback('q'); COMMIT});
is($pair->sql_target(q{SELECT state FROM rehome.status WHERE migration = 'q'}),
	'rolling_back', 'the source did not commit: nobody has authority');
$pair->sql_source('DROP TRIGGER refuse ON rehome_source.slice');
$pair->sql_target(q{CALL rehome.recover('q')});
is($pair->sql_source(q{SELECT v FROM own WHERE id = 700}), 'attached', 'rolled back after all, with what was attached before');
$pair->sql_source(q{UPDATE own SET v = 'on' WHERE id = 700});
$pair->sql_target(q{CALL rehome.sync('q')});
same_content($pair, ['own'], 'and then it goes on from the source');
is($pair->sql_target(q{SELECT bool_and(ok) FROM rehome.verify('q')}), 't', 'as a verification finds it');

# What the source has is not forgotten with a transaction here: a verification
# brings a partition, which nobody here knows of any more when it is dropped.
$pair->sql_target(q{CALL rehome.cutover('q')});
$pair->sql_target(q{CREATE TABLE own_8 PARTITION OF own FOR VALUES FROM ('2024-01-10') TO ('2024-01-11'); INSERT INTO own VALUES (800, '2024-01-10', 'brought')});
{
	my $lock = $source->background_psql('parts');
	$lock->query_safe('BEGIN; LOCK TABLE own IN ACCESS EXCLUSIVE MODE');
	like((sqlstate_of($target, q{SET rehome.lock_timeout = '100ms'; CALL rehome.sync('q')}, 'parts'))[0], qr{55P03|40001}, 'a batch that fails has seen to the triggers of a new partition');
	$lock->quit;
}
$pair->sql_target(q{BEGIN; SELECT count(*) FROM rehome.verify('q'); ROLLBACK});
is($pair->sql_source(q{SELECT v FROM own WHERE id = 800}), 'brought', 'the source has its rows, of which this side has forgotten');
$pair->sql_target(q{DROP TABLE own_8});
$pair->sql_target(q{CALL rehome.sync('q')});
is($pair->sql_source(q{SELECT count(*) FROM own WHERE id = 800}), '0', 'when it is dropped they go all the same');
$pair->sql_target(q{CALL rehome.rollback('q')});
same_content($pair, ['own'], 'rolled back');

done_testing();
