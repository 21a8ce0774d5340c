# Partitions of a source table that go, as those of a table with a partition a day
# do: their rows go from the target, and nothing else is read.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'parts');
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

done_testing();
