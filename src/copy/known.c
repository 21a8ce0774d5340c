/*-------------------------------------------------------------------------
 *
 * known.c
 *	  Which rows of a table are in quarantine.
 *
 * A row is known by its key, as text.  One whose key is null, or a part of it,
 * is known by its contents; of several that are equal in all of them each has
 * a number, counted anew in each pass that reads the whole table, or all that
 * have such a key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copy/known.h"
#include "util/name.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#define HASH_CHARS REHOME_KNOWN_CHARS

/*
 * value_text returns a value of a source row as text, NULL if it is null.
 */
static char *
value_text(TupleDesc desc, int i, Datum *values, bool *nulls)
{
	Oid			output;
	bool		varlena;

	if (nulls[i])
		return NULL;
	getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &output, &varlena);
	return OidOutputFunctionCall(output, values[i]);
}

/*
 * key_texts returns the values of a source row's key as text.
 */
static List *
key_texts(RehomeSieve *sieve, Datum *values, bool *nulls)
{
	TupleDesc	desc = sieve->mapping->source_desc;
	List	   *texts = NIL;
	ListCell   *lc;

	foreach(lc, sieve->mapping->map->source_key)
		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, i);

			if (!att->attisdropped && strcmp(NameStr(att->attname), lfirst(lc)) == 0)
				texts = lappend(texts, value_text(desc, i, values, nulls));
		}
	return texts;
}

/*
 * key_json returns it as rehome.quarantine has it.
 */
static char *
key_json(RehomeSieve *sieve, List *texts)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, texts)
	{
		appendStringInfoString(&buf, foreach_current_index(lc) > 0 ? ", " : "{");
		escape_json(&buf, list_nth(sieve->mapping->map->source_key, foreach_current_index(lc)));
		appendStringInfoString(&buf, ": ");
		if (lfirst(lc) == NULL)
			appendStringInfoString(&buf, "null");
		else
			escape_json(&buf, lfirst(lc));
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/*
 * hash_texts makes texts a fixed-size hash key.
 */
static void
hash_texts(List *texts, char *key)
{
	StringInfoData buf;
	char	   *md5;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, texts)
		if (lfirst(lc) == NULL)
			appendStringInfoChar(&buf, '-');
		else
		{
			appendStringInfo(&buf, "%zu:", strlen(lfirst(lc)));
			appendStringInfoString(&buf, lfirst(lc));
		}
	md5 = text_to_cstring(DatumGetTextPP(DirectFunctionCall1(md5_text, CStringGetTextDatum(buf.data))));
	memcpy(key, md5, HASH_CHARS);
}

/*
 * is_nameless tells whether a row cannot be told from others by its key.
 */
static bool
is_nameless(List *key)
{
	ListCell   *lc;

	foreach(lc, key)
		if (lfirst(lc) == NULL)
			return true;
	return false;
}

/*
 * identity is the hash by which a source row is known: of its key, or else of
 * all its values but those that are not to be on record, also as a digest.
 * Returns whether it is the latter.
 */
static bool
identity(RehomeSieve *sieve, List *key, Datum *values, bool *nulls, char *hash)
{
	TupleDesc	desc = sieve->mapping->source_desc;
	List	   *redacted = NIL;
	List	   *texts = NIL;

	if (!is_nameless(key))
	{
		hash_texts(key, hash);
		return false;
	}
	if (sieve->redacted != NULL)
		redacted = rehome_name_list(sieve->redacted);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && !rehome_name_listed(redacted, NameStr(att->attname)))
			texts = lappend(texts, value_text(desc, i, values, nulls));
	}
	hash_texts(texts, hash);
	return true;
}

/*
 * rehome_known_load reads what is in quarantine.  A copy, which comes chunk by
 * chunk, counts on from what others have refused.
 */
HTAB *
rehome_known_load(RehomeSieve *sieve)
{
	RehomeTableMap *map = sieve->mapping->map;
	HASHCTL		ctl = {.keysize = HASH_CHARS,.entrysize = sizeof(RehomeKnown),.hcxt = CurrentMemoryContext};
	bool		copying = sieve->taker != NULL && sieve->taker->remove == NULL;
	RehomeRows *rows;
	HTAB	   *known;

	rows = rehome_spi("SELECT q.source_key, (SELECT array_agg(q.source_key->>k ORDER BY n) FROM unnest($4::text[]) WITH ORDINALITY AS u(k, n)),"
					  " q.contents FROM rehome.quarantine q WHERE q.migration = $1::name AND q.slice = $2::name AND q.target = $3"
					  " AND q.source_key IS NOT NULL", "ttot", sieve->slice->migration->name,
					  sieve->slice->name, map->target, rehome_name_array(map->source_key));
	known = hash_create("pg_rehome quarantine", Max(rows->n, 16), &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < rows->n; i++)
	{
		char		key[HASH_CHARS];
		RehomeKnown *entry;
		bool		found;
		bool		nameless = strlen(rows->value[i][2]) >= HASH_CHARS;

		if (nameless)
			memcpy(key, rows->value[i][2], HASH_CHARS);
		else
			hash_texts(rehome_name_list(rows->value[i][1]), key);
		entry = hash_search(known, key, HASH_ENTER, &found);
		entry->source_key = rows->value[i][0];
		entry->nameless = nameless;
		if (!found)
			entry->seen = 0;
		if (copying && nameless)
			entry->seen = Max(entry->seen, rehome_int(rows->value[i][2] + HASH_CHARS + 1));
	}
	return known;
}

/*
 * rehome_known_any tells whether there are any.
 */
bool
rehome_known_any(RehomeSieve *sieve)
{
	return hash_get_num_entries(sieve->known) > 0;
}

/*
 * rehome_known_find returns the quarantine's entry of a source row, or NULL.
 */
RehomeKnown *
rehome_known_find(RehomeSieve *sieve, Datum *values, bool *nulls)
{
	char		key[HASH_CHARS];
	MemoryContext old;

	if (!rehome_known_any(sieve))
		return NULL;
	old = MemoryContextSwitchTo(sieve->scratch);
	(void) identity(sieve, key_texts(sieve, values, nulls), values, nulls, key);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sieve->scratch);
	return hash_search(sieve->known, key, HASH_FIND, NULL);
}

/*
 * rehome_known_release takes a row out of quarantine.
 */
void
rehome_known_release(RehomeSieve *sieve, RehomeKnown *entry)
{
	RehomeAs	as;
	MemoryContext old = MemoryContextSwitchTo(sieve->scratch);

	rehome_become_catalog_owner(&as);
	rehome_spi("DELETE FROM rehome.quarantine WHERE migration = $1::name AND target = $2 AND source_key = $3::jsonb"
			   " AND ($4 IS NULL OR left(contents, 32) = $4)", "tott", sieve->slice->migration->name,
			   sieve->mapping->map->target, entry->source_key, entry->nameless ? pnstrdup(entry->key, HASH_CHARS) : NULL);
	rehome_become_self(&as);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sieve->scratch);
	(void) hash_search(sieve->known, entry->key, HASH_REMOVE, NULL);
}

/*
 * rehome_known_nameless tells whether a row cannot be told from others by its
 * key; only that is looked at.
 */
bool
rehome_known_nameless(RehomeSieve *sieve, Datum *values, bool *nulls)
{
	MemoryContext old = MemoryContextSwitchTo(sieve->scratch);
	bool		nameless = is_nameless(key_texts(sieve, values, nulls));

	MemoryContextSwitchTo(old);
	MemoryContextReset(sieve->scratch);
	return nameless;
}

/*
 * rehome_known_refused counts a row that is refused in, and returns its entry;
 * *source_key is its key as rehome.quarantine has it.
 */
RehomeKnown *
rehome_known_refused(RehomeSieve *sieve, Datum *values, bool *nulls, char **source_key)
{
	List	   *texts = key_texts(sieve, values, nulls);
	char		key[HASH_CHARS];
	bool		nameless = identity(sieve, texts, values, nulls, key);
	RehomeKnown *entry;
	bool		found;

	*source_key = key_json(sieve, texts);
	entry = hash_search(sieve->known, key, HASH_ENTER, &found);
	if (!found)
	{
		entry->source_key = MemoryContextStrdup(GetMemoryChunkContext(sieve), *source_key);
		entry->nameless = nameless;
		entry->seen = 0;
	}
	entry->seen++;
	return entry;
}

/*
 * rehome_known_contents returns what rehome.quarantine.contents has of it.
 */
char *
rehome_known_contents(RehomeKnown *entry)
{
	return entry->nameless ? psprintf("%.*s-%d", HASH_CHARS, entry->key, entry->seen) : pstrdup("");
}
