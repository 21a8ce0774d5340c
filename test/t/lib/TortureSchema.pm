# TortureSchema: what the clients of the torture test write to, and what holds
# of it at every instant.
#
# The tables have keys of every shape; each row of them has a qty. A transaction
# notes in the same transaction what it did: a row of app.history, and for each
# table it changed a row of app.effect with the rows it added and the qty it
# added. So whoever sees some transactions and not others, or half of one, sees
# sums that do not add up: see violations(). Each transaction also adds one to a
# row of app.register, and notes the version it made; two authorities would make
# one version twice.
package TortureSchema;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(derived_tables derived_sql derived_wrong tables schema_sql load_sql violations registers operate pick weighted);

my $registers = 4;

sub registers { return $registers }

my @words  = qw(ash Ash ASH birch Birch elm ELM fir hazel HAZEL oak Oak pine yew);
my @moods  = ('sad', 'ok', 'happy, very');
my @zones  = qw(north south east west elsewhere);

sub pick { return $_[ rand @_ ] }

# Tables with a key that clients choose: its columns and types, and a random key.
# Few keys, so that clients meet; some in several forms that are equal.
my %keyed = (
	word   => { key => [qw(w)],      type => ['text'],             random => sub { (pick(@words)) } },
	pair   => { key => [qw(code region)], type => [ 'text', 'integer' ], random => sub { ('c' . int rand 6, int rand 6) } },
	thing  => { key => [qw(id)],     type => ['uuid'],             random => sub { (sprintf '%08x-0000-4000-8000-0000000000%02x', rand 4, rand 12) } },
	amount => { key => [qw(n)],      type => ['numeric'],          random => sub { (pick(map { int(rand 20) . $_ } '', '.0', '.00', '.5')) } },
	moment => { key => [qw(at)],     type => ['timestamptz'],      random => sub { (pick('infinity', '-infinity', map { '2024-03-31 0' . int(rand 4) . ":00:00.00000$_+00" } 0 .. 9)) } },
	raw    => { key => [qw(b)],      type => ['bytea'],            random => sub { ('\x' . join '', map { sprintf '%02x', pick(0, 10, 92, 255) } 0 .. rand 3) } },
	even   => { key => [qw(id)],     type => ['app.even_number'],  random => sub { (2 * int(rand 30) - 20) } },
	mood   => { key => [qw(m n)],    type => [ 'app.mood_kind', 'smallint' ], random => sub { (pick(@moods), int rand 10) } },
	visit  => { key => [qw(id day)], type => [ 'integer', 'date' ], random => sub { (int rand 12, '202' . int(3 + rand 3) . '-05-01') } },
	zone   => { key => [qw(name id)], type => [ 'text', 'bigint' ], random => sub { (pick(@zones), int rand 8) } },
	doc    => { key => [qw(name)],   type => ['text'],             random => sub { ('doc ' . int rand 25) } },
	head   => { key => [qw(id)],     type => ['integer'],          random => sub { (int rand 15) } },
	tree   => { key => [qw(id)],     type => ['integer'],          random => sub { (int rand 20) } },
	slot   => { key => [qw(id)],     type => ['integer'],          random => sub { (int rand 12) } },
	rect   => { key => [qw(id)],     type => ['bigint'],           random => sub { (int rand 30) } },
);

# Those whose key comes from a sequence, and those that hang on others.
my @others = qw(account entry line);

sub tables { return (sort(keys %keyed), @others, qw(effect history register)) }

sub schema_sql
{
	my ($side) = @_;
	my $at_source = $side eq 'source';

	my $sql = q{
	CREATE SCHEMA app;
	CREATE TYPE app.mood_kind AS ENUM ('sad', 'ok', 'happy, very');
	CREATE DOMAIN app.even_number AS integer CHECK (VALUE % 2 = 0);
	CREATE COLLATION app.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

	CREATE TABLE app.account (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.entry (id bigserial PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.word (w text COLLATE app.nocase PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.pair (region integer, qty integer NOT NULL, code text COLLATE "C", note text, PRIMARY KEY (code, region));
	CREATE TABLE app.thing (id uuid PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.amount (n numeric PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.moment (at timestamptz PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.raw (b bytea PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.even (id app.even_number PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.mood (m app.mood_kind, n smallint, qty integer NOT NULL, note text, PRIMARY KEY (m, n));
	CREATE TABLE app.doc (name text PRIMARY KEY, qty integer NOT NULL, note text, body text, digest text);
	ALTER TABLE app.doc ALTER body SET STORAGE EXTERNAL;
	CREATE TABLE app.head (id integer PRIMARY KEY, qty integer NOT NULL, note text);
	CREATE TABLE app.line (
		head integer REFERENCES app.head ON UPDATE CASCADE ON DELETE CASCADE, no integer,
		qty integer NOT NULL, note text, PRIMARY KEY (head, no));
	CREATE TABLE app.tree (
		id integer PRIMARY KEY, parent integer REFERENCES app.tree ON UPDATE CASCADE,
		qty integer NOT NULL, note text);
	CREATE INDEX ON app.tree (parent);
	CREATE TABLE app.slot (id integer PRIMARY KEY, seat integer UNIQUE, qty integer NOT NULL, note text);
	CREATE TABLE app.rect (
		id bigint PRIMARY KEY, qty integer NOT NULL, note text,
		twice bigint GENERATED ALWAYS AS (qty * 2) STORED);
	CREATE INDEX ON app.rect (twice);

	CREATE TABLE app.register (id integer PRIMARY KEY, version bigint NOT NULL, base bigint NOT NULL);
	CREATE TABLE app.history (
		client integer, seq integer, side text NOT NULL, register integer NOT NULL, version bigint NOT NULL,
		PRIMARY KEY (client, seq), UNIQUE (register, version));
	CREATE TABLE app.effect (
		client integer, seq integer, tab text, rows integer NOT NULL, qty bigint NOT NULL,
		PRIMARY KEY (client, seq, tab));
	};

	# Made at the target of what is moved.
	$sql .= q{
	CREATE SCHEMA derived;
	CREATE TABLE derived.head (id integer PRIMARY KEY, lines bigint NOT NULL, qty bigint NOT NULL);
	CREATE TABLE derived.day (day date PRIMARY KEY, visits bigint NOT NULL, heads bigint);
	} if !$at_source;

	# Partitioned on both sides, but differently, and on one side only.
	$sql .= $at_source
	  ? q{
	CREATE TABLE app.visit (id integer, day date, qty integer NOT NULL, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	CREATE TABLE app.visit_old PARTITION OF app.visit FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
	CREATE TABLE app.visit_2024 PARTITION OF app.visit FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
	CREATE TABLE app.visit_2024_0 PARTITION OF app.visit_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE app.visit_2024_1 PARTITION OF app.visit_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE app.visit_new PARTITION OF app.visit FOR VALUES FROM ('2025-01-01') TO (MAXVALUE);
	CREATE TABLE app.zone (name text, id bigint, qty integer NOT NULL, note text, PRIMARY KEY (name, id)) PARTITION BY LIST (name);
	CREATE TABLE app.zone_n PARTITION OF app.zone FOR VALUES IN ('north', 'east');
	CREATE TABLE app.zone_s PARTITION OF app.zone FOR VALUES IN ('south');
	CREATE TABLE app.zone_other PARTITION OF app.zone DEFAULT;
	  }
	  : q{
	CREATE TABLE app.visit (id integer, day date, qty integer NOT NULL, note text, PRIMARY KEY (id, day)) PARTITION BY HASH (id);
	CREATE TABLE app.visit_a PARTITION OF app.visit FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE app.visit_b PARTITION OF app.visit FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE app.zone (name text, id bigint, qty integer NOT NULL, note text, PRIMARY KEY (name, id));
	  };
	return $sql;
}

# What the target derives: of a table whose keys change by cascade, and of a
# partitioned one and a derived one; and what is wrong with it.
sub derived_tables { return qw(derived.head derived.day) }

sub derived_sql
{
	return q{
	SELECT rehome.add_derived('m', 'heads', 'derived.head', 'SELECT head AS id, count(*) AS lines, sum(qty) AS qty FROM app.line GROUP BY head',
		affected => '{"app.line": "SELECT t.head"}');
	SELECT rehome.add_derived('m', 'days', 'derived.day', $$
		SELECT v.day, count(*) AS visits, sum(h.qty) AS heads FROM app.visit v LEFT JOIN derived.head h ON h.id = v.id GROUP BY v.day$$,
		affected => '{"app.visit": "SELECT t.day", "derived.head": "SELECT v.day FROM app.visit v WHERE v.id = t.id"}');
	};
}

sub derived_wrong
{
	return q{
	SELECT 'head ' || coalesce(d.id, w.head) FROM derived.head d
	  FULL JOIN (SELECT head, count(*) AS lines, sum(qty) AS qty FROM app.line GROUP BY 1) AS w ON w.head = d.id
	 WHERE (d.lines, d.qty) IS DISTINCT FROM (w.lines, w.qty)
	UNION ALL
	SELECT 'day ' || coalesce(d.day, w.day) FROM derived.day d
	  FULL JOIN (SELECT day, count(*) AS visits, sum((SELECT sum(qty) FROM app.line WHERE head = v.id)) AS heads FROM app.visit v GROUP BY 1) AS w ON w.day = d.day
	 WHERE (d.visits, d.heads) IS DISTINCT FROM (w.visits, w.heads)
	};
}

# The first rows, with their effects.
sub load_sql
{
	my $counted = join "\nUNION ALL ", map { "SELECT '$_' AS tab, count(*) AS rows, coalesce(sum(qty), 0) AS qty FROM app.$_" } _counted();
	return qq{
	INSERT INTO app.register SELECT i, 0, 0 FROM generate_series(1, $registers) i;
	INSERT INTO app.account (qty, note) SELECT 100, repeat('a', i % 100) FROM generate_series(1, 3000) i;
	INSERT INTO app.entry (qty, note) SELECT i % 10, repeat('e', i % 200) FROM generate_series(1, 3000) i;
	INSERT INTO app.thing SELECT md5(i::text)::uuid, i, repeat('t', 50) FROM generate_series(1, 1000) i;
	INSERT INTO app.visit SELECT i, '2023-01-01'::date + i, 1, 'first' FROM generate_series(100, 1000) i;
	INSERT INTO app.zone SELECT 'zone ' || i % 7, i, 1, NULL FROM generate_series(100, 500) i;
	INSERT INTO app.doc SELECT 'first ' || i, 1, NULL, b, md5(b)
	  FROM (SELECT i, (SELECT string_agg(md5(i || ' ' || j), '') FROM generate_series(1, i * 10) j) AS b FROM generate_series(1, 60) i) s;
	INSERT INTO app.head SELECT i, 0, NULL FROM generate_series(100, 300) i;
	INSERT INTO app.line SELECT i, j, 1, NULL FROM generate_series(100, 300) i, generate_series(1, 3) j;
	INSERT INTO app.tree SELECT i, CASE WHEN i > 100 THEN i / 2 END, 1, NULL FROM generate_series(50, 400) i ORDER BY i;
	INSERT INTO app.effect SELECT 0, 0, tab, rows, qty FROM ($counted) s;
	};
}

sub _counted { return (sort(keys %keyed), @others) }

=pod

=item violations($side)

A query that returns a line for each thing that does not hold; of none, nothing
must be returned at any snapshot of a side. It has to be run in a transaction
that has locked all tables in ACCESS SHARE mode before its snapshot was taken:
TRUNCATE is not MVCC-safe.

=cut

sub violations
{
	my $found = join "\n UNION ALL ", map { "SELECT '$_', count(*), coalesce(sum(qty), 0) FROM app.$_" } _counted();
	return qq{
	WITH found (tab, rows, qty) AS ($found),
	     noted (tab, rows, qty) AS (SELECT tab, sum(rows), sum(qty) FROM app.effect GROUP BY tab),
	     made (id, n, version) AS (SELECT register, count(*), max(version) FROM app.history GROUP BY register)
	SELECT format('app.%s has %s rows of qty %s, but its transactions left %s of %s', tab, f.rows, f.qty, n.rows, n.qty)
	  FROM found f FULL JOIN noted n USING (tab)
	 WHERE (coalesce(f.rows, 0), coalesce(f.qty, 0)) <> (coalesce(n.rows, 0), coalesce(n.qty, 0))
	UNION ALL
	SELECT format('register %s is at %s, from %s, but %s transactions brought it to %s', r.id, r.version, r.base, m.n, m.version)
	  FROM app.register r LEFT JOIN made m USING (id)
	 WHERE r.version <> r.base + coalesce(m.n, 0) OR r.version <> coalesce(m.version, r.base)
	UNION ALL
	SELECT format('transaction %s of client %s has effects, but no history', seq, client)
	  FROM app.effect e WHERE client > 0 AND NOT EXISTS (SELECT FROM app.history h WHERE (h.client, h.seq) = (e.client, e.seq))
	UNION ALL
	SELECT format('the body of %s is not what it was', name) FROM app.doc WHERE md5(body) IS DISTINCT FROM digest
	UNION ALL
	SELECT format('line %s of head %s has no head', no, head) FROM app.line l WHERE NOT EXISTS (SELECT FROM app.head h WHERE h.id = l.head)
	UNION ALL
	SELECT format('the parent %s of %s is not there', parent, id) FROM app.tree t
	 WHERE parent IS NOT NULL AND NOT EXISTS (SELECT FROM app.tree p WHERE p.id = t.parent)
	};
}

=pod

=head1 Operations

operate($dbh, $effects, $side) does something random to a random table in the
open transaction and adds to @$effects what it did: [table, rows, qty]. An error
is raised by DBI.

=cut

sub _change { return int(rand 21) - 10 }

sub _note { return pick(undef, '', "it's", 'a "quoted", \\ note', "two\nlines\t", 'n' x rand 120) }

# Adds up the RETURNING qty of a statement.
sub _returned
{
	my ($dbh, $sql, @values) = @_;
	my $qtys = $dbh->selectcol_arrayref($sql, undef, @values);
	my $sum = 0;
	$sum += $_ for @$qtys;
	return (scalar @$qtys, $sum);
}

sub _where
{
	my ($table, $alias) = @_;
	my $of = $keyed{$table};
	my $prefix = defined $alias ? "$alias." : '';
	return join ' AND ', map { "$prefix$of->{key}[$_] = ?::$of->{type}[$_]" } 0 .. $#{ $of->{key} };
}

sub _places
{
	my ($table) = @_;
	return join ', ', map { "?::$_" } @{ $keyed{$table}{type} };
}

my %operation = (
	insert => [ 30, sub {
		my ($dbh, $effects, $table) = @_;
		my $qty = _change();
		my ($columns, $values, @more) = ('', '');
		if ($table eq 'doc')
		{
			my $body = join '', map { chr(97 + rand 26) x 100 } 0 .. rand(rand(2) < 1 ? 10 : 400);
			($columns, $values, @more) = (', body, digest', ', ?, md5(?)', $body, $body);
		}
		elsif ($table eq 'tree')
		{
			($columns, $values, @more) = (', parent', ', (SELECT id FROM app.tree WHERE id < ? ORDER BY id DESC LIMIT 1 FOR KEY SHARE)', int rand 60);
		}
		my $key = join ', ', @{ $keyed{$table}{key} };
		my $rows = 0 + $dbh->do("INSERT INTO app.$table ($key, qty, note$columns) VALUES (" . _places($table) . ", ?, ?$values) ON CONFLICT DO NOTHING",
			undef, $keyed{$table}{random}->(), $qty, _note(), @more);
		push @$effects, [ $table, $rows, $rows * $qty ];
	} ],
	update => [ 30, sub {
		my ($dbh, $effects, $table) = @_;
		my $by = _change();
		my $rows = 0 + $dbh->do("UPDATE app.$table SET qty = qty + ?, note = ? WHERE " . _where($table), undef, $by, _note(), $keyed{$table}{random}->());
		push @$effects, [ $table, 0, $rows * $by ];
	} ],
	update_many => [ 4, sub {
		my ($dbh, $effects, $table) = @_;
		my $rows = 0 + $dbh->do("UPDATE app.$table SET qty = qty + 1 WHERE abs(qty) % 9 = ?", undef, int rand 9);
		push @$effects, [ $table, 0, $rows ];
	} ],
	write_again => [ 4, sub {
		my ($dbh, $effects, $table) = @_;
		$dbh->do("UPDATE app.$table SET qty = qty WHERE " . _where($table), undef, $keyed{$table}{random}->());
	} ],
	delete => [ 15, sub {
		my ($dbh, $effects, $table) = @_;
		my @key = $keyed{$table}{random}->();
		return _delete_heads($dbh, $effects, 'id = ?', @key) if $table eq 'head';
		my $leaf = $table eq 'tree' ? ' AND NOT EXISTS (SELECT FROM app.tree c WHERE c.parent = t.id)' : '';
		my ($rows, $qty) = _returned($dbh, "DELETE FROM app.$table t WHERE " . _where($table) . "$leaf RETURNING qty", @key);
		push @$effects, [ $table, -$rows, -$qty ];
	} ],
	change_key => [ 25, sub {
		my ($dbh, $effects, $table) = @_;
		my @from = $keyed{$table}{random}->();
		my @to = $keyed{$table}{random}->();
		# also to another form of the same value
		$dbh->do("UPDATE app.$table t SET (" . join(', ', @{ $keyed{$table}{key} }) . ') = ROW(' . _places($table) . ') WHERE ' . _where($table)
			  . " AND NOT EXISTS (SELECT FROM app.$table o WHERE " . _where($table, 'o') . ' AND (' . join(', ', map { "o.$_" } @{ $keyed{$table}{key} })
			  . ') <> (' . join(', ', map { "t.$_" } @{ $keyed{$table}{key} }) . '))',
			undef, @to, @from, @to);
	} ],
	swap_keys => [ 6, sub {
		my ($dbh, $effects, $table) = @_;
		my @one = $keyed{$table}{random}->();
		my @other = $keyed{$table}{random}->();
		my $key = join ', ', @{ $keyed{$table}{key} };
		my $taken = "DELETE FROM app.$table WHERE " . _where($table) . ' RETURNING qty';
		my $put = "INSERT INTO app.$table ($key, qty) VALUES (" . _places($table) . ', ?)';
		# others may refer to these
		return if $table eq 'head' || $table eq 'tree';
		my ($rows_one, $qty_one) = _returned($dbh, $taken, @one);
		my ($rows_other, $qty_other) = _returned($dbh, $taken, @other);
		$dbh->do($put, undef, @other, $qty_one) if $rows_one;
		$dbh->do($put, undef, @one, $qty_other) if $rows_other;
	} ],
	delete_many => [ 2, sub {
		my ($dbh, $effects, $table) = @_;
		my $of = int rand 15;
		return _delete_heads($dbh, $effects, 'abs(qty) % 15 = ?', $of) if $table eq 'head';
		return if $table eq 'tree';
		my ($rows, $qty) = _returned($dbh, "DELETE FROM app.$table WHERE abs(qty) % 15 = ? RETURNING qty", $of);
		push @$effects, [ $table, -$rows, -$qty ];
	} ],
	truncate => [ 1, sub {
		my ($dbh, $effects, $table, $side) = @_;
		# what an older snapshot does not see would go uncounted
		return if $dbh->selectrow_array(q{SELECT current_setting('transaction_isolation') <> 'read committed'});
		my @truncated = $table eq 'head' ? ('line', 'head') : ($table);
		@truncated = (pick(qw(visit_old visit_2024 visit_2024_1))) if $table eq 'visit' && $side eq 'source' && rand(2) < 1;
		my $list = join ', ', map { "app.$_" } @truncated;
		$dbh->do("LOCK TABLE $list IN ACCESS EXCLUSIVE MODE");
		for (@truncated)
		{
			my ($rows, $qty) = $dbh->selectrow_array("SELECT count(*), coalesce(sum(qty), 0) FROM app.$_");
			push @$effects, [ /^visit/ ? 'visit' : $_, -$rows, -$qty ];
		}
		$dbh->do("TRUNCATE $list");
	} ]);

# What only makes sense for one table.
my @special = (
	[ 10, sub {    # money moves
		my ($dbh, $effects) = @_;
		my $by = int rand 50;
		my ($from) = $dbh->selectrow_array('SELECT id FROM app.account WHERE id >= ? ORDER BY id LIMIT 1', undef, int rand 3000);
		my ($to) = $dbh->selectrow_array('SELECT id FROM app.account WHERE id >= ? ORDER BY id LIMIT 1', undef, int rand 3000);
		for ([ $from, -$by ], [ $to, $by ])
		{
			my $rows = 0 + $dbh->do('UPDATE app.account SET qty = qty + ? WHERE id = ?', undef, $_->[1], $_->[0]);
			push @$effects, [ 'account', 0, $rows * $_->[1] ];
		}
	} ],
	[ 6, sub {
		my ($dbh, $effects) = @_;
		my $qty = _change();
		$dbh->do('INSERT INTO app.account (qty, note) VALUES (?, ?)', undef, $qty, _note());
		push @$effects, [ 'account', 1, $qty ];
	} ],
	[ 3, sub {
		my ($dbh, $effects) = @_;
		my ($rows, $qty) = _returned($dbh, 'DELETE FROM app.account WHERE id = (SELECT id FROM app.account WHERE id >= ? ORDER BY id LIMIT 1) RETURNING qty', int rand 3500);
		push @$effects, [ 'account', -$rows, -$qty ];
	} ],
	[ 10, sub {
		my ($dbh, $effects) = @_;
		my $rows = 1 + int rand 5;
		$dbh->do('INSERT INTO app.entry (qty, note) SELECT 1, ? FROM generate_series(1, ?)', undef, _note(), $rows);
		push @$effects, [ 'entry', $rows, $rows ];
	} ],
	[ 6, sub {
		my ($dbh, $effects) = @_;
		my ($rows, $qty) = _returned($dbh,
			'DELETE FROM app.entry WHERE id IN (SELECT id FROM app.entry ORDER BY id LIMIT ? FOR UPDATE SKIP LOCKED) RETURNING qty', 1 + int rand 4);
		push @$effects, [ 'entry', -$rows, -$qty ];
	} ],
	[ 12, sub {
		my ($dbh, $effects) = @_;
		my $rows = 0 + $dbh->do('INSERT INTO app.line SELECT id, ?, 1, ? FROM app.head WHERE id = ? ON CONFLICT DO NOTHING', undef,
			int rand 6, _note(), $keyed{head}{random}->());
		push @$effects, [ 'line', $rows, $rows ];
	} ],
	[ 5, sub {
		my ($dbh, $effects) = @_;
		my ($rows, $qty) = _returned($dbh, 'DELETE FROM app.line WHERE head = ? AND no < ? RETURNING qty', $keyed{head}{random}->(), int rand 6);
		push @$effects, [ 'line', -$rows, -$qty ];
	} ],
	[ 6, sub {
		my ($dbh) = @_;
		my ($from, $to) = map { $keyed{head}{random}->() } 1, 2;
		$dbh->do('UPDATE app.line SET head = ? WHERE head = ? AND no = ? AND EXISTS (SELECT FROM app.head WHERE id = ?)', undef,
			$to, $from, int rand 6, $to);
	} ],
	[ 6, sub {
		my ($dbh) = @_;
		$dbh->do('UPDATE app.tree SET parent = (SELECT id FROM app.tree WHERE id = ? FOR KEY SHARE) WHERE id = ?', undef, map { $keyed{tree}{random}->() } 1, 2);
	} ],
	[ 10, sub {    # two rows exchange their unique values
		my ($dbh) = @_;
		my ($one, $other) = map { $keyed{slot}{random}->() } 1, 2;
		my $seats = $dbh->selectall_hashref('SELECT id, seat FROM app.slot WHERE id IN (?, ?) ORDER BY id FOR UPDATE', 'id', undef, $one, $other);
		return if keys %$seats != 2;
		$dbh->do('UPDATE app.slot SET seat = NULL WHERE id = ?', undef, $one);
		$dbh->do('UPDATE app.slot SET seat = ? WHERE id = ?', undef, $seats->{$one}{seat}, $other);
		$dbh->do('UPDATE app.slot SET seat = ? WHERE id = ?', undef, $seats->{$other}{seat}, $one);
	} ],
	[ 5, sub {
		my ($dbh) = @_;
		my $seat = int rand 20;
		$dbh->do('UPDATE app.slot SET seat = ? WHERE id = ? AND NOT EXISTS (SELECT FROM app.slot WHERE seat = ?)', undef,
			$seat, $keyed{slot}{random}->(), $seat);
	} ]);

# Lines go with their heads, by the foreign key: what goes is locked to be counted.
sub _delete_heads
{
	my ($dbh, $effects, $where, @values) = @_;
	my $heads = $dbh->selectcol_arrayref("SELECT id FROM app.head WHERE $where ORDER BY id FOR UPDATE", undef, @values);
	for my $head (@$heads)
	{
		my ($lines, $of_lines) = _returned($dbh, 'SELECT qty FROM app.line WHERE head = ? ORDER BY no FOR UPDATE', $head);
		my ($rows, $qty) = _returned($dbh, 'DELETE FROM app.head WHERE id = ? RETURNING qty', $head);
		push @$effects, [ 'line', -$lines, -$of_lines ], [ 'head', -$rows, -$qty ];
	}
	return;
}

# weighted([[weight, value], ...]) returns one of the values.
sub weighted
{
	my ($weights) = @_;
	my $total = 0;
	$total += $_->[0] for @$weights;
	my $at = rand $total;
	for (@$weights)
	{
		return $_->[1] if ($at -= $_->[0]) < 0;
	}
	return $weights->[-1][1];
}

sub operate
{
	my ($dbh, $effects, $side) = @_;
	return weighted(\@special)->($dbh, $effects) if rand(3) < 1;
	my $operation = weighted([ map { $operation{$_} } sort keys %operation ]);
	$operation->($dbh, $effects, pick(sort keys %keyed), $side);
	return;
}

1;
