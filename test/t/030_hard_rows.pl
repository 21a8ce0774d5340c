# The hard rows of sync, in both directions: key updates, key swaps in one
# transaction, delete and insert of the same key, transactions older than the
# snapshot, subtransactions, TRUNCATE, prepared transactions, nulls and TOAST,
# unique values exchanged between rows, keys of many types, hard names, tables
# without rows, partitions, 200 columns.
#
# Every step is one transaction (or several) on the side that has authority.
# After CALL rehome.sync() all tables are compared; what is not committed yet is
# visible on neither side.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

# With so little memory the target keeps what it has in hand in files.
# The worker that sees to new partitions asks for a lock on each of some forty
# tables, and may wait for autovacuum with each: a call beside it has patience.
my $pair = new_pair(
	source_conf => 'max_prepared_transactions = 10',
	target_conf => "work_mem = 64kB\nrehome.lock_retries = 100");
my ($source, $target) = ($pair->source, $pair->target);

# Names of 63 bytes that differ in the last one only.
my $long_a = 'hard.' . 'l' x 62 . 'a';
my $long_b = 'hard.' . 'l' x 62 . 'b';
my $long_column = 'c' x 63;

# ---------------------------------------------------------------------------
# The schema; it differs between the sides where a move has to bear that.

# Key types: three values, and the first one again in another form, if it has one.
my @key_types = (
	[ 'bytea',        q{'\x00'}, q{'\xff00'}, q{''} ],
	[ 'uuid',         map { "md5('$_')::uuid" } 1 .. 3 ],
	[ 'timestamptz',  q{'2024-03-31 01:59:59.999999+00'}, q{'infinity'}, q{'0044-03-15 12:00 BC'} ],
	[ 'date',         q{'-infinity'}, q{'2024-02-29'}, q{'0001-01-01 BC'} ],
	[ 'interval',     q{'1 mon'}, q{'-3 days'}, q{'00:00:00.000001'}, q{'30 days'} ],
	[ 'numeric',      '1.0', q{'NaN'}, '-12345678901234567890.5', '1.000' ],
	[ 'float8',       '0', q{'NaN'}, q{'-Infinity'}, q{'-0'} ],
	[ 'real',         q{'0.1'}, q{'Infinity'}, q{'1e-45'} ],
	[ 'jsonb',        q{'{"a": 1.0}'}, q{'null'}, q{'[]'}, q{'{"a": 1.00}'} ],
	[ 'integer[]',    q{'{}'}, q{'{1,NULL}'}, q{'[0:1]={1,2}'} ],
	[ 'inet',         q{'10.0.0.1/8'}, q{'::1'}, q{'10.0.0.1'} ],
	[ 'int4range',    q{'[1,5)'}, q{'empty'}, q{'(,)'} ],
	[ 'char(5)',      q{'a'}, q{''}, q{'b c'} ],
	[ 'varchar(9)',   q{'a '}, q{'a'}, q{E'\t'} ],
	[ 'name',         q{'a'}, q{'B'}, q{''} ],
	[ 'hard.mood',    q{'ok'}, q{'sad'}, q{'happy, very'} ],
	[ 'hard.spot',    map { "'$_'::hard.spot" } '(1,)', '(,"a,b")', '(2,"")', '(1.0,)' ],
	[ 'hard.even',    '2', '4', '-6' ],
	[ 'text COLLATE hard.nocase', q{'straße'}, q{'Zoë'}, q{''}, q{'STRASSE'} ],
	[ 'text COLLATE "C"',         q{'\N'}, q{E'\n'}, q{'\.'} ],
	[ 'boolean, k2 "char"',       q{true, 'a'}, q{false, 'a'}, q{true, 'b'} ]);

sub ddl
{
	my ($side) = @_;
	my $at_source = $side eq 'source';
	my $deferrable = $at_source ? 'DEFERRABLE INITIALLY DEFERRED' : '';
	my $collation = $at_source ? '"de-x-icu"' : '"C"';
	my $ranges = $pair->source_version >= 140000 ? 'int4multirange' : 'text';

	my @types = ('integer', 'text', 'numeric', 'timestamptz', 'boolean', 'bigint', 'date', 'double precision', 'uuid', 'text[]');
	my $wide = join ', ', map { "c$_ " . $types[ $_ % @types ] } 1 .. 199;

	my $sql = qq{
	CREATE SCHEMA hard;
	CREATE TYPE hard.mood AS ENUM ('sad', 'ok', 'happy, very');
	CREATE TYPE hard.spot AS (x numeric, "y z" text);
	CREATE DOMAIN hard.even AS integer CHECK (VALUE % 2 = 0);
	CREATE COLLATION hard.nocase (provider = icu, locale = 'und-u-ks-level1', deterministic = false);

	CREATE TABLE hard.item (
		id integer PRIMARY KEY, code text NOT NULL, place integer, note text,
		UNIQUE (place) DEFERRABLE INITIALLY DEFERRED);
	CREATE UNIQUE INDEX ON hard.item (lower(code));
	CREATE UNIQUE INDEX ON hard.item (note) WHERE place > 100;
	CREATE TABLE hard.swap (id integer, v text, PRIMARY KEY (id) $deferrable);
	CREATE TABLE hard.booking (
		id integer PRIMARY KEY, during int4range,
		EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE hard.pair (v integer, b text, a integer, PRIMARY KEY (b, a));
	CREATE TABLE hard.word (w text COLLATE $collation PRIMARY KEY, v integer);
	CREATE TABLE hard.empty (id integer PRIMARY KEY, v text);
	CREATE TABLE hard.key_only (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
	CREATE TABLE hard.ident (
		id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, other bigint GENERATED ALWAYS AS (id * 2) STORED, v text);
	CREATE TABLE hard.toast (id integer PRIMARY KEY, big text, raw text, n integer);
	ALTER TABLE hard.toast ALTER raw SET STORAGE EXTERNAL;
	CREATE TABLE hard.parent (id integer PRIMARY KEY, v text);
	CREATE TABLE hard.child (
		id integer PRIMARY KEY,
		parent integer REFERENCES hard.parent ON UPDATE CASCADE ON DELETE CASCADE);
	CREATE TABLE hard.wide (id integer PRIMARY KEY, $wide);
	CREATE TABLE hard.types (
		id integer PRIMARY KEY, mood hard.mood, f real, d double precision, n numeric, n2 numeric(20, 4),
		tz timestamptz, ts timestamp, day date, t time, ttz timetz, iv interval, j json, jb jsonb,
		texts text[], matrix integer[], b bytea, u uuid, ip inet, range tstzrange, ranges $ranges,
		bits bit varying, fixed char(5), tsv tsvector, point point, spot hard.spot, spots hard.spot[],
		lsn pg_lsn, ch "char", money money, even hard.even, yes boolean, x xml, mac macaddr);

	CREATE TABLE hard."Mixed ""Case""" (
		"Key ""A""" text, "select" integer, "größe" text, PRIMARY KEY ("Key ""A""", "select"));
	CREATE TABLE $long_a ($long_column integer PRIMARY KEY, v text);
	CREATE TABLE $long_b ($long_column integer PRIMARY KEY, v text);
	};

	# Partitioned here, there, and on both sides but differently.
	if ($at_source)
	{
		$sql .= q{
		CREATE TABLE hard.part (id integer, d date, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
		CREATE TABLE hard.part_2023 PARTITION OF hard.part FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
		CREATE TABLE hard.part_2024 PARTITION OF hard.part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
		CREATE TABLE hard.part_2024_0 PARTITION OF hard.part_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE hard.part_2024_1 PARTITION OF hard.part_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE TABLE hard.plain_here (id integer PRIMARY KEY, v text);
		CREATE TABLE hard.parted_here (id integer PRIMARY KEY, v text) PARTITION BY LIST (id);
		CREATE TABLE hard.parted_here_0 PARTITION OF hard.parted_here FOR VALUES IN (0, 1, 2);
		CREATE TABLE hard.parted_here_d PARTITION OF hard.parted_here DEFAULT;
		CREATE TABLE hard.gap (gone integer, v text, gone_too text, id integer PRIMARY KEY);
		ALTER TABLE hard.gap DROP gone, DROP gone_too, ADD w integer DEFAULT 7;
		};
	}
	else
	{
		$sql .= q{
		CREATE TABLE hard.part (id integer, d date, v text, PRIMARY KEY (id, d)) PARTITION BY HASH (id);
		CREATE TABLE hard.part_a PARTITION OF hard.part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE hard.part_b PARTITION OF hard.part FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (d);
		CREATE TABLE hard.part_b_old PARTITION OF hard.part_b FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
		CREATE TABLE hard.part_b_new PARTITION OF hard.part_b DEFAULT;
		CREATE TABLE hard.plain_here (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE hard.plain_here_low PARTITION OF hard.plain_here FOR VALUES FROM (MINVALUE) TO (5);
		CREATE TABLE hard.plain_here_high PARTITION OF hard.plain_here FOR VALUES FROM (5) TO (MAXVALUE);
		CREATE TABLE hard.parted_here (id integer PRIMARY KEY, v text);
		CREATE TABLE hard.gap (v text, id integer PRIMARY KEY, gone integer, w integer DEFAULT 7);
		ALTER TABLE hard.gap DROP gone;
		};
	}

	for my $n (0 .. $#key_types)
	{
		my $columns = $key_types[$n][0] =~ /k2/ ? 'k, k2' : 'k';
		$sql .= "CREATE TABLE hard.k$n (k $key_types[$n][0], v text, PRIMARY KEY ($columns));\n";
	}
	return $sql;
}

$pair->sql_source(ddl('source'));
$pair->sql_target(ddl('target'));

my @all = split /\n/, $pair->sql_source(q{
	SELECT format('%I.%I', n.nspname, c.relname)
	  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE n.nspname = 'hard' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1});
my $all = join ', ', @all;

# ---------------------------------------------------------------------------
# Steps. Each begins where the one before it ended; the first one empties
# every table, so that the whole list can be run on either side.

sub for_all_keys
{
	my ($template) = @_;
	my $sql = '';
	for my $n (0 .. $#key_types)
	{
		my (undef, $one, $two, $three, $alike) = @{ $key_types[$n] };
		my $k = $one =~ /, / && $key_types[$n][0] =~ /k2/ ? '(k, k2)' : 'k';
		my $columns = $k =~ s/[()]//gr;
		my $value = sub { $k eq 'k' ? $_[0] : "($_[0])" };
		my %with = (
			T => "hard.k$n", K => $k, COLUMNS => $columns,
			ONE => $one, TWO => $two, THREE => $three, ALIKE => $alike // $one,
			_ONE => $value->($one), _TWO => $value->($two), _THREE => $value->($three), _ALIKE => $value->($alike // $one));
		$sql .= $template =~ s/\{(\w+)\}/$with{$1}/gr;
	}
	return $sql;
}

my $wide_values = sub {
	my ($seed) = @_;
	my @sql = (
		"$seed + %d", "CASE WHEN $seed = 2 THEN NULL ELSE md5('%d') END", '%d / 7.0',
		"timestamptz '2024-01-01 00:00:00+00' + %d * interval '1 hour'", "(%d + $seed) %% 2 = 0", '%d::bigint * 1000000007',
		"date '2000-02-29' + %d", 'sqrt(%d)', "md5('%d')::uuid", "ARRAY['%d', NULL]");
	return join ', ', map { sprintf $sql[ $_ % 10 ], $_ } 1 .. 199;
};

# MERGE, where the source has it.
my $merge = $pair->source_version >= 150000 ? q{
		MERGE INTO hard.gap g USING (VALUES (1), (2), (99)) AS n(id) ON g.id = n.id
			WHEN MATCHED AND g.id = 1 THEN DELETE
			WHEN MATCHED THEN UPDATE SET id = 1000 + g.id
			WHEN NOT MATCHED THEN INSERT (id, v, w) VALUES (n.id, NULL, NULL);} : q{
		DELETE FROM hard.gap WHERE id = 1;
		UPDATE hard.gap SET id = 1000 + id WHERE id = 2;
		INSERT INTO hard.gap (id) SELECT 99 WHERE NOT EXISTS (SELECT FROM hard.gap WHERE id = 99);};

my @steps = (
	[ 'everything truncated and filled anew in one transaction', qq{
		TRUNCATE $all;
		INSERT INTO hard.item SELECT i, 'Code ' || i, i, 'note ' || i FROM generate_series(1, 10) AS i;
		INSERT INTO hard.item VALUES (11, 'eleven', NULL, NULL), (12, 'twelve', NULL, NULL), (13, '', 113, 'partial');
		INSERT INTO hard.swap SELECT i, 'v' || i FROM generate_series(1, 5) AS i;
		INSERT INTO hard.booking SELECT i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 5) AS i;
		INSERT INTO hard.booking VALUES (6, NULL), (7, 'empty');
		INSERT INTO hard.pair SELECT i, chr(96 + i % 3), i FROM generate_series(1, 9) AS i;
		INSERT INTO hard.word VALUES ('', 1), ('ä', 2), ('a', 3), ('Z', 4), ('z', 5), ('straße', 6), ('strasse', 7), ('\\N', 8), (E'\\t', 9);
		INSERT INTO hard.key_only DEFAULT VALUES; INSERT INTO hard.key_only DEFAULT VALUES;
		INSERT INTO hard.ident (v) SELECT 'v' || i FROM generate_series(1, 5) AS i;
		INSERT INTO hard.toast SELECT i, (SELECT string_agg(md5(i || ' ' || n), '') FROM generate_series(1, 400) AS n), repeat('x', 20000 + i), i
		  FROM generate_series(1, 4) AS i;
		INSERT INTO hard.toast VALUES (5, repeat('compresses ', 20000), NULL, 5), (6, NULL, '', NULL);
		INSERT INTO hard.parent SELECT i, 'p' || i FROM generate_series(1, 5) AS i;
		INSERT INTO hard.child SELECT i, nullif(i % 6, 0) FROM generate_series(1, 12) AS i;
		INSERT INTO hard.wide VALUES (1, @{[ $wide_values->(1) ]}), (2, @{[ $wide_values->(2) ]}), (3, @{[ $wide_values->(3) ]});
		INSERT INTO hard.wide (id) VALUES (4);
		INSERT INTO hard.types (id) VALUES (0);
		INSERT INTO hard.types VALUES (1, 'happy, very', 'NaN', '-0', 1.0, 1.0,
			'infinity', '-infinity', '0044-03-15 BC', '24:00', '23:59:60+14', '1 mon -3 days 00:00:00.000001', '{"a" : 1, "a":2}', '{"a": [null, 1.00, "\\u2028"]}',
			'{NULL,"NULL","","a,b","\\"q\\"","\\\\\\\\"}', '[0:1][-1:0]={{1,NULL},{3,4}}', '\\x00ff5c', md5('u')::uuid, '2001:db8::/32', '(,infinity]', '{[1,3),[5,)}',
			'101', 'a', '''a b'':1A c:2', '(1e-300,-0)', '(1.10,"a ""b""")', '{"(,)","(1,\\"x,y\\")"}',
			'16/B374D848', '\\', '-12.34', -4, false, '<a b="1">x &amp; y</a>', '08:00:2b:01:02:03');
		INSERT INTO hard.types (id, f, d, n, n2, tz, iv, jb, texts, b) VALUES
			(2, '-Infinity', 4.9e-324, 'NaN', -0.0001, '2023-10-29 00:30:00+00', '-00:00:00.5', 'null', '{}', ''),
			(3, 0.1, 1.7976931348623157e308, @{[ $pair->source_version >= 140000 ? q{'Infinity'} : q{'NaN'} ]}, 9999999999999999.9999, '4713-01-01 00:00:00+00 BC', '178000000 years', '""', NULL, NULL);
		INSERT INTO hard."Mixed ""Case""" VALUES ('a', 1, 'x'), ('A', 1, NULL), ('a', 2, 'quote " and '' and \\');
		INSERT INTO $long_a VALUES (1, 'a1'), (2, 'a2');
		INSERT INTO $long_b VALUES (1, 'b1'), (3, 'b3');
		INSERT INTO hard.part SELECT i, date '2023-01-01' + i * 40, 'v' || i FROM generate_series(1, 17) AS i;
		INSERT INTO hard.plain_here SELECT i, 'v' || i FROM generate_series(0, 9) AS i;
		INSERT INTO hard.parted_here SELECT i, 'v' || i FROM generate_series(0, 9) AS i;
		INSERT INTO hard.gap (id, v) SELECT i, 'v' || i FROM generate_series(1, 5) AS i;
		} . for_all_keys(q{
		INSERT INTO {T} ({COLUMNS}, v) VALUES ({ONE}, 'one'), ({TWO}, 'two');}) ],

	[ 'a key updated, and updated again', q{
		UPDATE hard.item SET id = 101 WHERE id = 1;
		UPDATE hard.item SET id = 102 WHERE id = 101;
		UPDATE hard.item SET id = 103, note = 'moved twice' WHERE id = 102;
		UPDATE hard.item SET id = id + 200 WHERE id IN (2, 3);
		UPDATE hard.plain_here SET id = 20 WHERE id = 1;
		UPDATE hard.parted_here SET id = 20 WHERE id = 1;
		UPDATE hard.word SET w = 'Ä' WHERE w = 'ä';} ],

	[ 'keys moved to their neighbours in one statement', q{
		SET CONSTRAINTS ALL DEFERRED;
		UPDATE hard.item SET id = -id; UPDATE hard.item SET id = 1 - id;
		UPDATE hard.plain_here SET id = -id; UPDATE hard.plain_here SET id = 1 - id;} ],

	[ 'keys exchanged between two rows in one transaction', q{
		UPDATE hard.item SET id = -1 WHERE code = 'Code 4';
		UPDATE hard.item SET id = 5 WHERE code = 'Code 5';
		UPDATE hard.item SET id = 6 WHERE code = 'Code 6' AND id <> 6;
		UPDATE hard.item SET id = (SELECT max(id) + 1 FROM hard.item) WHERE id = -1;
		UPDATE hard.pair SET a = -1 WHERE (b, a) = ('a', 3);
		UPDATE hard.pair SET a = 3 WHERE (b, a) = ('a', 6);
		UPDATE hard.pair SET a = 6 WHERE (b, a) = ('a', -1);
		UPDATE hard."Mixed ""Case""" SET "Key ""A""" = 'tmp' WHERE "Key ""A""" = 'a' AND "select" = 1;
		UPDATE hard."Mixed ""Case""" SET "Key ""A""" = 'a' WHERE "Key ""A""" = 'A' AND "select" = 1;
		UPDATE hard."Mixed ""Case""" SET "Key ""A""" = 'A' WHERE "Key ""A""" = 'tmp';
		UPDATE hard.word SET w = 'tmp' WHERE w = 'z'; UPDATE hard.word SET w = 'z' WHERE w = 'Z'; UPDATE hard.word SET w = 'Z' WHERE w = 'tmp';} ],

	[ 'values of unique columns and of an exclusion constraint exchanged between rows', q{
		UPDATE hard.item SET code = 'tmp' WHERE code = 'Code 7';
		UPDATE hard.item SET code = 'CODE 7' WHERE code = 'Code 8';
		UPDATE hard.item SET code = 'code 8' WHERE code = 'tmp';
		UPDATE hard.item SET place = CASE place WHEN 9 THEN 10 ELSE 9 END WHERE place IN (9, 10);
		UPDATE hard.item SET place = 114, note = 'partial, too' WHERE code = 'eleven';
		UPDATE hard.item SET note = CASE note WHEN 'partial' THEN 'tmp' ELSE 'partial' END, place = place + 1000 WHERE place > 100;
		UPDATE hard.item SET note = 'partial, too' WHERE note = 'tmp';
		UPDATE hard.booking SET during = int4range(40 - lower(during) + 10, 40 - upper(during) + 30) WHERE id IN (1, 2, 3, 4);} ],

	[ 'a ring of unique values, and the row that held one deleted', q{
		UPDATE hard.item SET place = place % 6 + 1 WHERE place BETWEEN 1 AND 6;
		DELETE FROM hard.item WHERE code = 'code 8';
		INSERT INTO hard.item VALUES (9000, 'Code 8', 7000, 'took over the code');
		UPDATE hard.booking SET during = NULL WHERE id = 5;
		INSERT INTO hard.booking VALUES (50, '[50,60)');} ],

	[ 'a row deleted and inserted again under its key', q{
		DELETE FROM hard.item WHERE code = 'Code 9';
		INSERT INTO hard.item VALUES (9, 'another 9', 90, 'again') ON CONFLICT (id) DO UPDATE SET note = 'again';
		DELETE FROM hard.pair WHERE b = 'b';
		INSERT INTO hard.pair SELECT i * 100, 'b', i FROM generate_series(1, 9) AS i WHERE i % 3 = 1;
		DELETE FROM hard.part WHERE id = 1; INSERT INTO hard.part VALUES (1, '2023-02-10', 'again');
		DELETE FROM hard.swap WHERE id = 1; INSERT INTO hard.swap VALUES (1, NULL);
		DELETE FROM hard.types WHERE id = 1; INSERT INTO hard.types (id, mood) VALUES (1, 'sad');} ],

	[ 'a row inserted and deleted in one transaction, and one inserted, moved and deleted', q{
		INSERT INTO hard.item VALUES (-7, 'short-lived', NULL, NULL); DELETE FROM hard.item WHERE id = -7;
		INSERT INTO hard.pair VALUES (0, 'zz', 0); UPDATE hard.pair SET a = 1 WHERE b = 'zz'; DELETE FROM hard.pair WHERE b = 'zz';
		INSERT INTO hard.empty VALUES (1, 'x'); DELETE FROM hard.empty;} ],

	[ 'subtransactions, some rolled back', q{
		SAVEPOINT a; UPDATE hard.item SET code = 'lost ' || id; DELETE FROM hard.swap; TRUNCATE hard.gap;
		ROLLBACK TO a;
		UPDATE hard.item SET note = 'kept' WHERE code = 'twelve';
		SAVEPOINT b; INSERT INTO hard.swap VALUES (77, 'kept'); RELEASE b;
		SAVEPOINT c; INSERT INTO hard.swap VALUES (78, 'lost');
		SAVEPOINT d; UPDATE hard.swap SET id = 79 WHERE id = 77; ROLLBACK TO c;
		DO $$ BEGIN INSERT INTO hard.swap VALUES (80, 'lost'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
		INSERT INTO hard.swap VALUES (81, 'kept');} ],

	[ 'INSERT ON CONFLICT, MERGE and writes in WITH', q{
		INSERT INTO hard.pair VALUES (1, 'a', 3), (2, 'new', 1) ON CONFLICT (b, a) DO UPDATE SET v = -excluded.v;} . $merge . q{
		WITH gone AS (DELETE FROM hard.word WHERE v < 3 RETURNING *) INSERT INTO hard.pair SELECT v, w, v FROM gone;} ],

	[ 'what foreign keys do on UPDATE and DELETE', q{
		UPDATE hard.parent SET id = 100 WHERE id = 1;
		UPDATE hard.parent SET id = id + 10 WHERE id IN (2, 3);
		DELETE FROM hard.parent WHERE id = 4;} ],

	[ 'TOASTed values untouched, changed, emptied and shortened, nulls set and cleared', q{
		UPDATE hard.toast SET n = n + 1 WHERE id = 1;
		UPDATE hard.toast SET id = 20 WHERE id = 2;
		UPDATE hard.toast SET raw = raw || 'y', big = NULL WHERE id = 3;
		UPDATE hard.toast SET raw = 'short' WHERE id = 4;
		UPDATE hard.toast SET big = (SELECT raw FROM hard.toast WHERE id = 1), raw = NULL WHERE id = 6;
		UPDATE hard.item SET place = NULL, note = NULL WHERE code = 'Code 10';
		UPDATE hard.item SET note = '' WHERE code = 'twelve';} ],

	[ 'values that are equal and yet another', q{
		UPDATE hard.types SET n = 1.00, n2 = 1 WHERE id IN (1, 2);
		UPDATE hard.types SET d = '-0', f = '-0', fixed = 'a' WHERE id = 3;
		UPDATE hard.types SET d = 0, f = 0, iv = '1 day', texts = '[2:3]={a,b}' WHERE id = 2;
		UPDATE hard.types SET mood = 'ok', j = '{"a":2}', jb = '{"a": 1.0}', spot = '(1.1,)' WHERE id = 0;} ],
	[ 'and back', q{
		UPDATE hard.types SET n = 1.0 WHERE id IN (1, 2);
		UPDATE hard.types SET d = 0, f = 0 WHERE id = 3;
		UPDATE hard.types SET d = '-0', f = '-0', iv = '24:00', texts = '{a,b}' WHERE id = 2;
		UPDATE hard.types SET j = '{"a": 2}', jb = '{"a": 1.00}', spot = '(1.10,)' WHERE id = 0;} ],

	[ 'one of 200 columns changed, all of them, and the key', qq{
		UPDATE hard.wide SET c199 = '{}', c1 = NULL WHERE id = 1;
		UPDATE hard.wide SET id = 20 WHERE id = 2;
		DELETE FROM hard.wide WHERE id = 4; INSERT INTO hard.wide VALUES (4, @{[ $wide_values->(4) ]});} ],

	[ 'identities and generated columns', q{
		INSERT INTO hard.ident OVERRIDING SYSTEM VALUE VALUES (1000, DEFAULT, 'overridden');
		UPDATE hard.ident SET v = 'updated' WHERE v = 'v2';
		UPDATE hard.ident SET id = DEFAULT WHERE v = 'v3';
		DELETE FROM hard.ident WHERE v = 'v4';
		DELETE FROM hard.key_only WHERE id = (SELECT min(id) FROM hard.key_only);
		INSERT INTO hard.key_only DEFAULT VALUES;} ],

	[ 'rows that move between partitions, by key and through the parent', q{
		UPDATE hard.part SET d = d + 365 WHERE id BETWEEN 2 AND 5;
		UPDATE hard.part SET id = id + 100 WHERE id BETWEEN 6 AND 9;
		UPDATE hard.part SET id = id + 1, d = '2024-06-01' WHERE id = 109;
		UPDATE hard.parted_here SET id = 30 + id WHERE id < 3;
		UPDATE hard.parted_here SET id = 0 WHERE id = 9;
		UPDATE hard.plain_here SET id = (id + 500) % 503;
		DELETE FROM hard.part WHERE id = 10;} ],

	[ 'long names, quoted names', qq{
		UPDATE $long_a SET $long_column = 3 WHERE $long_column = 1;
		DELETE FROM $long_b WHERE $long_column = 3;
		INSERT INTO $long_b VALUES (4, NULL);
		DELETE FROM hard."Mixed ""Case""" WHERE "select" = 2;
		INSERT INTO hard."Mixed ""Case""" VALUES ('', -1, 'empty key'), ('"', 0, E'\\\\\\t\\n\\r'), ('\\N', 0, '\\N'), ('\\.', 0, '\\.');} ],

	[ 'keys of every type: exchanged in one transaction', for_all_keys(q{
		UPDATE {T} SET {K} = {_THREE} WHERE v = 'one';
		UPDATE {T} SET {K} = {_ONE} WHERE v = 'two';
		UPDATE {T} SET {K} = {_TWO} WHERE v = 'one';}) ],
	[ 'keys of every type: moved on, the old one taken by a new row', for_all_keys(q{
		UPDATE {T} SET {K} = {_THREE} WHERE v = 'two';
		INSERT INTO {T} ({COLUMNS}, v) VALUES ({ONE}, 'new');}) ],
	[ 'keys of every type: deleted and inserted again', for_all_keys(q{
		DELETE FROM {T} WHERE {K} = {_THREE};
		INSERT INTO {T} ({COLUMNS}, v) VALUES ({THREE}, NULL);
		DELETE FROM {T} WHERE {K} = {_TWO};}) ],
	[ 'keys of every type: the same key in another form', for_all_keys(q{
		UPDATE {T} SET {K} = {_ALIKE} WHERE {K} = {_ONE};}) ],
	[ 'keys of every type: the other form deleted, the first inserted', for_all_keys(q{
		DELETE FROM {T} WHERE {K} = {_ALIKE};
		INSERT INTO {T} ({COLUMNS}, v) VALUES ({ONE}, 'first form');}) ],

	[ 'TRUNCATE of some tables, then rows', qq{
		TRUNCATE hard.item, hard.pair, $long_a;
		INSERT INTO hard.item VALUES (1, 'first', 1, 'after'), (2, 'second', 2, 'after');
		UPDATE hard.item SET id = 3 WHERE id = 1;
		INSERT INTO hard.pair VALUES (1, 'x', 1);} ],
	[ 'rows, then TRUNCATE', q{
		INSERT INTO hard.item VALUES (4, 'before', 4, 'lost');
		UPDATE hard.pair SET a = 2;
		TRUNCATE hard.item, hard.pair RESTART IDENTITY;} ],
	[ 'TRUNCATE CASCADE', q{TRUNCATE hard.parent CASCADE;} ],
	[ 'TRUNCATE of a partitioned table', q{
		TRUNCATE hard.part, hard.plain_here, hard.parted_here;
		INSERT INTO hard.part SELECT i, date '2023-01-01' + i * 40, 'v' || i FROM generate_series(1, 17) AS i;
		INSERT INTO hard.parted_here VALUES (1, 'one'), (7, 'seven');} ],
	[ 'everything deleted from a table', q{DELETE FROM hard.toast; DELETE FROM hard.types;} ],
	[ 'session_replication_role = replica', q{
		SET LOCAL session_replication_role = replica;
		INSERT INTO hard.swap VALUES (500, 'replica'); UPDATE hard.swap SET id = 501 WHERE id = 2; DELETE FROM hard.swap WHERE id = 3;
		INSERT INTO hard.part VALUES (500, '2024-05-05', 'replica'); UPDATE hard.part SET id = 501 WHERE id = 2; DELETE FROM hard.part WHERE id = 3;
		TRUNCATE hard.word;} ]);

sub sync { return $pair->sql_target(q{CALL rehome.sync('m')}, timeout => $PostgreSQL::Test::Utils::timeout_default) }

sub after_sync
{
	my ($name, @tables) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sync();
	return same_content($pair, @tables ? \@tables : \@all, $name);
}

# One transaction.
sub transaction { my ($sql) = @_; return "BEGIN;\n$sql;\nCOMMIT;" }

# ---------------------------------------------------------------------------
# The copy, with transactions open around it.

$pair->sql_source(transaction($steps[0][1]));
$pair->sql_target(q{SELECT rehome.create_migration('m', 'src', 'hard rows')});
is($pair->sql_target(q{SELECT rehome.add_schema('m', 'hard', 'hard')}),
	scalar @all, 'every table of the schema is mapped');

# Has its number before capture is there, and a snapshot.
my $oldest = $source->background_psql('postgres');
$oldest->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current(), count(*) FROM hard.swap');

# Stops the copy between capture and snapshot.
my $stopper = hold_lock($target, debug_lock());
my $copy = start_psql($target, q{CALL rehome.copy('m')}, debug_point => 'capture-installed:wait');
ok(wait_for_lock_waiter($target, debug_lock()), 'the copy waits between capture and snapshot');

# Writes before the snapshot, commits after it.
my $older = $source->background_psql('postgres');
$older->query_safe(q{BEGIN; INSERT INTO hard.pair VALUES (1, 'older', 1); UPDATE hard.item SET id = 701 WHERE id = 7;
	DELETE FROM hard.swap WHERE id = 5; UPDATE hard.part SET d = d + 365 WHERE id = 1});
# Writes before the snapshot, and is rolled back after it.
my $loser = $source->background_psql('postgres');
$loser->query_safe(q{BEGIN; INSERT INTO hard.pair VALUES (1, 'loser', 1); UPDATE hard.item SET id = 801 WHERE id = 8});
# Commits before the snapshot.
$pair->sql_source(q{UPDATE hard.item SET note = 'before the snapshot' WHERE id = 6; INSERT INTO hard.pair VALUES (1, 'committed', 1)});

$stopper->quit;
is(finish_psql($copy)->{sqlstate}, '00000', 'the copy ends while three transactions are open');
same_content($pair, \@all, 'after the copy, before any sync, the target equals the snapshot');

after_sync('first sync, with the transactions still open');
$oldest->query_safe(q{INSERT INTO hard.pair VALUES (1, 'oldest', 1); UPDATE hard.swap SET id = 40 WHERE id = 4; DELETE FROM hard.plain_here WHERE id = 0});
$older->query_safe(q{UPDATE hard.pair SET a = 2 WHERE b = 'older'});
after_sync('they write on');
$pair->sql_source(q{INSERT INTO hard.pair VALUES (2, 'younger', 1); UPDATE hard.item SET note = 'younger' WHERE id = 5});
after_sync('a younger transaction commits before them');
$loser->query_safe('ROLLBACK');
after_sync('one is rolled back');
$older->query_safe('COMMIT');
after_sync('one commits, after several syncs');
$pair->sql_source(q{UPDATE hard.pair SET v = v + 1});
after_sync('and what it wrote is updated');
$oldest->query_safe('COMMIT');
after_sync('the one that is older than capture commits');
is($pair->sql_target(q{SELECT string_agg(b, ' ' ORDER BY b) FROM hard.pair WHERE length(b) > 1}),
	'committed older oldest younger', 'of the rows of these transactions, those committed are there');
$_->quit for $oldest, $older, $loser;

# ---------------------------------------------------------------------------
# Forward.

for my $step (@steps)
{
	$pair->sql_source(transaction($step->[1]));
	after_sync("source: $step->[0]");
}
is($pair->sql_source('SELECT count(*) > 0 FROM hard.part'), 't', 'the steps have left rows to go on with');

# One transaction each that is seen at several syncs before it ends.
for my $end ('ROLLBACK', 'COMMIT')
{
	my $open = $source->background_psql('postgres');
	$open->query_safe(q{BEGIN; INSERT INTO hard.item VALUES (1000, 'open', 1000, 'open'); SAVEPOINT a;
		UPDATE hard.swap SET id = id + 1000 WHERE id < 100; ROLLBACK TO a; DELETE FROM hard.gap});
	$pair->sql_source(q{INSERT INTO hard.pair VALUES (1, 'beside', 1) ON CONFLICT (b, a) DO UPDATE SET v = hard.pair.v + 1});
	after_sync("source: an open transaction ($end), first sync");
	$pair->sql_source(q{UPDATE hard.pair SET a = a + 1 WHERE b = 'beside'});
	after_sync("source: an open transaction ($end), second sync");
	$open->query_safe($end);
	$open->quit;
	after_sync("source: after its $end");
}
is($pair->sql_target('SELECT count(*) FROM hard.item'), '1', 'of the two, one has left a row');

# Prepared transactions: neither visible nor gone.
for my $end ('COMMIT', 'ROLLBACK')
{
	$pair->sql_source(qq{
		INSERT INTO hard.gap (id, v) SELECT i, 'gap' FROM generate_series(1, 9) AS i ON CONFLICT DO NOTHING;
		BEGIN; UPDATE hard.gap SET id = id + (SELECT max(id) FROM hard.gap) WHERE id < 5; INSERT INTO hard.pair VALUES (1, 'prepared $end', 1); DELETE FROM hard.item;
		PREPARE TRANSACTION 'hard';
		UPDATE hard.gap SET v = 'beside' WHERE id > 5});
	after_sync("source: a prepared transaction ($end)");
	$source->restart if $end eq 'COMMIT';
	$pair->sql_source(q{UPDATE hard.gap SET v = 'restarted' WHERE id > 7});
	after_sync("source: a prepared transaction ($end), again");
	$pair->sql_source("$end PREPARED 'hard'");
	after_sync("source: after its $end PREPARED");
}
# A TRUNCATE that is prepared locks its table, and only that.
$pair->sql_source(q{BEGIN; TRUNCATE hard.swap; INSERT INTO hard.swap VALUES (1, 'after'); PREPARE TRANSACTION 'hard';
	INSERT INTO hard.pair VALUES (1, 'beside a prepared TRUNCATE', 1)});
after_sync('source: a TRUNCATE prepared, the other tables', grep { $_ ne 'hard.swap' } @all);
$pair->sql_source(q{COMMIT PREPARED 'hard'});
after_sync('source: and committed');

# A deferred key: exchanged in one statement.
$pair->sql_source(q{INSERT INTO hard.swap SELECT i, 'swap ' || i FROM generate_series(2, 6) AS i;
	UPDATE hard.swap SET id = 7 - id});
after_sync('source: keys turned round in one statement, under a deferred key');

# Bulk: COPY, and a batch of many rows.
$pair->sql_source(q{COPY hard.empty FROM STDIN;
1	one
2	\N
\.
INSERT INTO hard.empty SELECT i, md5(i::text) FROM generate_series(3, 5000) AS i;});
after_sync('source: COPY, and 5000 rows at once');
$pair->sql_source(q{BEGIN; UPDATE hard.empty SET id = -id; UPDATE hard.empty SET id = 2500 - id; COMMIT});
after_sync('source: the keys of all of them updated, over each other');
$pair->sql_source(q{DELETE FROM hard.empty WHERE id % 2 = 0});
after_sync('source: half of them deleted');

# Partitions, one by one.
$pair->sql_source(q{INSERT INTO hard.part_2023 VALUES (900, '2023-05-05', 'direct'); UPDATE hard.part_2023 SET id = 901 WHERE id = 900});
after_sync('source: writes directly to a partition');
$pair->sql_source(q{UPDATE hard.part_2024_0 SET v = 'direct'; DELETE FROM hard.part_2024_1});
after_sync('source: writes directly to partitions of a partition');
$pair->sql_source('TRUNCATE hard.part_2023');
after_sync('source: TRUNCATE of one partition');
$pair->sql_source('TRUNCATE hard.part_2024');
after_sync('source: TRUNCATE of one partition that is partitioned');
$pair->sql_source(q{CREATE TABLE hard.part_2025 PARTITION OF hard.part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
	INSERT INTO hard.part VALUES (2025, '2025-01-01', 'a'), (2026, '2025-01-01', 'b'); UPDATE hard.part_2025 SET id = 2027 WHERE id = 2026});
after_sync('source: a partition made since capture, and written to');
$pair->sql_source('TRUNCATE hard.part_2025');
after_sync('source: TRUNCATE of the partition made since capture');
$pair->sql_source(q{CREATE TABLE hard.part_2026 (id integer, d date, v text, PRIMARY KEY (id, d));
	INSERT INTO hard.part_2026 SELECT i, '2026-01-01', 'attached' FROM generate_series(1, 5) AS i;
	ALTER TABLE hard.part ATTACH PARTITION hard.part_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')});
after_sync('source: a partition with rows attached since capture');
$pair->sql_source(q{UPDATE hard.part SET v = 'updated' WHERE d = '2026-01-01'; DELETE FROM hard.part_2026 WHERE id = 1});
after_sync('source: its rows updated');
$pair->sql_source('ALTER TABLE hard.part DETACH PARTITION hard.part_2026');
after_sync('source: a partition with rows detached');
$pair->sql_source(q{INSERT INTO hard.part VALUES (1, '2025-03-03', 'x'), (1, '2024-03-03', 'x'); DROP TABLE hard.part_2025});
after_sync('source: a partition with rows dropped');

# The same operations in random order, always the same ones. Some violate a
# constraint and fail.
srand(20240229);
sub random_transaction
{
	my $key = sub { 1 + int rand 12 };
	my @operations = (
		sub { my $k = $key->(); "INSERT INTO hard.item VALUES ($k, 'c' || $k, @{[ $key->() ]}, 'inserted') ON CONFLICT (id) DO NOTHING" },
		sub { "DELETE FROM hard.item WHERE id = @{[ $key->() ]}" },
		sub { my ($a, $b) = ($key->(), $key->()); "UPDATE hard.item SET id = $a WHERE id = $b AND NOT EXISTS (SELECT FROM hard.item WHERE id = $a)" },
		sub { my ($a, $b) = ($key->(), $key->()); "UPDATE hard.item SET place = CASE place WHEN $a THEN $b ELSE $a END WHERE place IN ($a, $b)" },
		sub { "UPDATE hard.item SET note = 'u' || @{[ $key->() ]} WHERE id < @{[ $key->() ]}" },
		sub { "UPDATE hard.item SET id = -id WHERE id > 3; UPDATE hard.item SET id = 16 + id WHERE id < 0" },
		sub { "INSERT INTO hard.pair VALUES (1, 'r', @{[ $key->() ]}) ON CONFLICT (b, a) DO UPDATE SET v = hard.pair.v + 1" },
		sub { my ($a, $b) = ($key->(), $key->()); "UPDATE hard.pair SET a = $a WHERE b = 'r' AND a = $b AND NOT EXISTS (SELECT FROM hard.pair WHERE b = 'r' AND a = $a)" },
		sub { "DELETE FROM hard.pair WHERE a = @{[ $key->() ]}" },
		sub { my $k = $key->(); "INSERT INTO hard.part VALUES ($k, date '2023-06-01' + $k * 40, 'r') ON CONFLICT DO NOTHING" },
		sub { my $k = $key->(); "UPDATE hard.part p SET d = date '2023-06-01' + 480 - (d - date '2023-06-01') WHERE id = $k AND NOT EXISTS (SELECT FROM hard.part q WHERE q.id = $k AND q.d <> p.d)" },
		sub { int(rand 10) == 0 ? 'TRUNCATE hard.item' : 'SELECT 1' });
	my @statements;
	for (1 .. 1 + int rand 5)
	{
		push @statements, 'SAVEPOINT s' if rand() < 0.3;
		push @statements, $operations[ rand @operations ]->();
		push @statements, 'ROLLBACK TO s' if rand() < 0.3 && grep { $_ eq 'SAVEPOINT s' } @statements;
	}
	return join(";\n", 'BEGIN', @statements, rand() < 0.8 ? 'COMMIT' : 'ROLLBACK') . ";\n";
}
my $clock = $source->background_psql('postgres');
$clock->query_safe('BEGIN; SELECT txid_current()');
for my $round (1 .. 8)
{
	$source->psql('postgres', join('', map { random_transaction() } 1 .. 30), on_error_stop => 0);
	after_sync("source: 30 random transactions, round $round", qw(hard.item hard.pair hard.part));
}
$clock->query_safe('COMMIT');
$clock->quit;

is($pair->sql_target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('m', mode => 'rows') WHERE NOT ok}),
	'', 'verify row by row finds nothing');
is($pair->sql_target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('m') WHERE NOT ok}),
	'', 'verify by hash finds nothing');

# ---------------------------------------------------------------------------
# Backward.

$pair->sql_target(q{CALL rehome.cutover('m')});
ok($pair->wait_for_state('m', 'cut_over'), 'cut over');
for my $step (@steps)
{
	$pair->sql_target(transaction($step->[1]));
	after_sync("target: $step->[0]");
}

my $open = $target->background_psql('postgres');
$open->query_safe(q{BEGIN; INSERT INTO hard.item VALUES (1000, 'open', 1000, 'open'); SAVEPOINT a;
	UPDATE hard.swap SET id = id + 1000 WHERE id < 100; ROLLBACK TO a; DELETE FROM hard.gap});
$pair->sql_target(q{INSERT INTO hard.pair VALUES (1, 'beside', 1)});
after_sync('target: an open transaction, first sync');
$pair->sql_target(q{UPDATE hard.pair SET a = a + 1 WHERE b = 'beside'});
after_sync('target: an open transaction, second sync');
$open->query_safe('COMMIT');
$open->quit;
after_sync('target: after its COMMIT');
is($pair->sql_source('SELECT count(*) FROM hard.gap'), '0', 'and the source has its deletes');

$pair->sql_target(q{INSERT INTO hard.part_a SELECT id, '2024-07-07', 'direct' FROM generate_series(1, 50) AS id
	WHERE satisfies_hash_partition('hard.part'::regclass, 2, 0, id)});
after_sync('target: writes directly to a partition');
$pair->sql_target('TRUNCATE hard.part_b_old');
after_sync('target: TRUNCATE of a partition');
$pair->sql_target(q{INSERT INTO hard.empty SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i;
	BEGIN; UPDATE hard.empty SET id = -id WHERE id > 2000; UPDATE hard.empty SET id = 2500 - id WHERE id < 0; COMMIT});
after_sync('target: 5000 rows, keys updated over each other');

# What the source knows of the table, and of where its rows are staged, is of a
# time when both were all but empty, but for dead rows that an old snapshot has
# kept.  A plan made for that must not go through all that has come for each row
# that comes: that would take many minutes.
my $old = $source->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM hard.empty');
$pair->sql_target('DELETE FROM hard.empty');
after_sync('target: the table is empty');
$pair->sql_source('VACUUM ANALYZE');
$pair->sql_target(q{INSERT INTO hard.empty SELECT i, 'many' FROM generate_series(1, 100000) AS i});
is((sqlstate_of($target, q{SET statement_timeout = '20s'; CALL rehome.sync('m')}))[0], '00000', 'target: many rows into a table that the source believes to be empty');
$old->query_safe('COMMIT');
$old->quit;
$pair->sql_target('DELETE FROM hard.empty WHERE id > 100');

$pair->sql_target('TRUNCATE hard.part');
for my $round (1 .. 4)
{
	$target->psql('postgres', join('', map { random_transaction() } 1 .. 30), on_error_stop => 0);
	after_sync("target: 30 random transactions, round $round", qw(hard.item hard.pair hard.part));
}
is($pair->sql_target(q{SELECT string_agg(target::text, ', ') FROM rehome.verify('m', mode => 'rows') WHERE NOT ok}),
	'', 'verify row by row finds nothing, with authority at the target');

# Home again, and forward once more.
$pair->sql_target(q{CALL rehome.rollback('m')});
ok($pair->wait_for_state('m', 'syncing'), 'rolled back');
same_content($pair, \@all, 'the same on both sides after the rollback');
$pair->sql_source(transaction($steps[0][1]));
after_sync('source: everything anew after the rollback');
is($pair->sql_target('SELECT count(*) FROM hard.item'), '13', 'and it is there');

# ---------------------------------------------------------------------------
# Backward once more, by a role that cannot keep the source's foreign keys from
# being checked: the order of what is merged there has to bear them.

my $plain = q{
	CREATE SCHEMA plain;
	CREATE TABLE plain.parent (id integer PRIMARY KEY, code text NOT NULL UNIQUE, place integer UNIQUE);
	CREATE TABLE plain.child (
		id integer PRIMARY KEY, parent integer NOT NULL REFERENCES plain.parent ON UPDATE CASCADE,
		code text REFERENCES plain.parent (code), tag text UNIQUE);
	CREATE TABLE plain.tree (id integer PRIMARY KEY, up integer REFERENCES plain.tree, name text UNIQUE);};
$pair->sql_source($plain . q{
	CREATE ROLE plain LOGIN;
	INSERT INTO plain.parent SELECT i, 'code ' || i, i FROM generate_series(1, 10) AS i;
	INSERT INTO plain.child SELECT i, 1 + i % 5, CASE WHEN i % 2 = 0 THEN 'code ' || 1 + i % 5 END, 'tag ' || i FROM generate_series(1, 20) AS i;
	INSERT INTO plain.tree SELECT i, nullif(i / 2, 0), 'node ' || i FROM generate_series(1, 15) AS i;});
$pair->grant_source('plain', 'plain');
$pair->sql_target(q{CALL rehome.cancel('m')});
is($pair->sql_source(q{SELECT to_regnamespace('rehome_source')}), '', 'the first migration is cancelled');
$pair->sql_target($plain . sprintf q{
	CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER plain OPTIONS (user 'plain');
	SELECT rehome.create_migration('plain', 'plain', 'by a role with few rights'), rehome.add_schema('plain', 'plain', 'plain');
	CALL rehome.copy('plain');
	CALL rehome.cutover('plain')}, $source->host, $source->port);
my @plain = qw(plain.parent plain.child plain.tree);
for my $step (
	[ 'parents and children, inserted, updated and deleted', q{
		INSERT INTO plain.parent VALUES (11, 'code 11', 11); INSERT INTO plain.child VALUES (21, 11, 'code 11', 'tag 21');
		UPDATE plain.child SET parent = 11, code = 'code 11' WHERE id IN (1, 2);
		DELETE FROM plain.child WHERE parent = 5; DELETE FROM plain.parent WHERE id = 5;
		INSERT INTO plain.tree VALUES (16, 8, 'node 16'), (17, 16, NULL); DELETE FROM plain.tree WHERE id = 15} ],
	[ 'a row deleted, its unique values taken by another that is new', q{
		DELETE FROM plain.parent WHERE id = 10; INSERT INTO plain.parent VALUES (12, 'code 10', 10);
		DELETE FROM plain.child WHERE id = 20; INSERT INTO plain.child VALUES (22, 12, 'code 10', 'tag 20')} ],
	[ 'the key of a row that others refer to', q{
		UPDATE plain.parent SET id = 100 WHERE id = 1} ],
	[ 'keys exchanged between rows that others refer to', q{
		UPDATE plain.parent SET id = -1 WHERE id = 2; UPDATE plain.parent SET id = 2 WHERE id = 3; UPDATE plain.parent SET id = 3 WHERE id = -1} ],
	[ 'unique values exchanged between rows that nobody refers to', q{
		UPDATE plain.child SET tag = NULL WHERE id = 3; UPDATE plain.child SET tag = 'tag 3' WHERE id = 4; UPDATE plain.child SET tag = 'tag 4' WHERE id = 3;
		UPDATE plain.parent SET place = -1 WHERE place = 7; UPDATE plain.parent SET place = 7 WHERE place = 8; UPDATE plain.parent SET place = 8 WHERE place = -1} ],
	[ 'unique values exchanged between rows that others refer to', q{
		UPDATE plain.parent SET place = -1 WHERE place = 3; UPDATE plain.parent SET place = 3 WHERE place = 4; UPDATE plain.parent SET place = 4 WHERE place = -1;
		UPDATE plain.tree SET name = 'tmp' WHERE id = 2; UPDATE plain.tree SET name = 'node 2' WHERE id = 3; UPDATE plain.tree SET name = 'node 3' WHERE id = 2} ],
	[ 'a tree turned round', q{
		UPDATE plain.tree SET up = NULL WHERE id = 2; UPDATE plain.tree SET up = 2 WHERE id = 1; UPDATE plain.tree SET up = 4 WHERE id IN (3, 17);
		DELETE FROM plain.tree WHERE id = 16} ],
	[ 'everything truncated and some of it inserted again', q{
		TRUNCATE plain.parent, plain.child, plain.tree;
		INSERT INTO plain.parent VALUES (7, 'code 8', 1), (8, 'code 7', 8); INSERT INTO plain.child VALUES (7, 7, 'code 7', 'tag 8')} ])
{
	$pair->sql_target(join ';', map { my $save = s/\./_/r; "DROP TABLE IF EXISTS $save; CREATE TABLE $save AS TABLE $_" } @plain);
	$pair->sql_target(transaction($step->[1]));
	my ($sqlstate, $message) = sqlstate_of($target, q{CALL rehome.sync('plain')}, 'postgres', timeout => $PostgreSQL::Test::Utils::timeout_default);
	is("$sqlstate $message", '00000 ', "target, few rights: $step->[0]: accepted by the source");
	same_content($pair, \@plain, "target, few rights: $step->[0]");
	# One that is refused is not to stand in the way of the others.
	next if $sqlstate eq '00000';
	$pair->sql_target(transaction('TRUNCATE ' . join(', ', @plain) . '; ' . join '; ', map { "INSERT INTO $_ TABLE " . s/\./_/r } @plain));
}
$pair->sql_target(q{CALL rehome.rollback('plain')});
same_content($pair, \@plain, 'and all of it is there after the rollback');

done_testing();
