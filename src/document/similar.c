/*-------------------------------------------------------------------------
 *
 * similar.c
 *	  How much two names of tables or columns are alike.
 *
 * A name is cut into words at underscores, other signs, and where capitals or
 * digits begin; words are put in lower case and in the singular; what says
 * only that a table is a table is left out.  Words are the same, or one is an
 * abbreviation of the other (its letters, in order, from the first), or a few
 * letters differ.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "document/similar.h"
#include "utils/varlena.h"

/* Words that say nothing of what a thing is. */
static const char *const noise[] = {"tbl", "tab", "table", "tb", "t", "vw", "view", "fld", "field", "col", "column", "f", "c",
	"yn", "flag", "flg", "is"};

/* Words that mean the same, which letters do not show. */
static const char *const same[][2] = {
	{"no", "number"}, {"nr", "number"}, {"num", "number"}, {"nbr", "number"},
	{"dt", "date"}, {"ts", "timestamp"}, {"ts", "at"}, {"dt", "at"}, {"date", "at"}, {"time", "at"}, {"timestamp", "at"},
	{"date", "on"}, {"dt", "on"}, {"zip", "postcode"}, {"postal", "postcode"}, {"tel", "phone"},
	{"telephone", "phone"}, {"uid", "id"}, {"pk", "id"}, {"key", "id"}, {"identifier", "id"},
	{"client", "customer"}, {"person", "people"}, {"given", "first"}, {"family", "last"},
};

/* Words that are two. */
static const char *const two[][3] = {
	{"dob", "birth", "date"}, {"birthdate", "birth", "date"}, {"birthday", "birth", "date"},
	{"fname", "first", "name"}, {"forename", "first", "name"}, {"firstname", "first", "name"},
	{"lname", "last", "name"}, {"surname", "last", "name"}, {"lastname", "last", "name"},
};

/* Scores of two words. */
#define SAME_WORD 1.0
#define SAME_MEANING 0.9
#define ABBREVIATION 0.85
#define LIKE_ENOUGH 0.75		/* at least so much of the letters */

static bool
is_noise(const char *word)
{
	for (int i = 0; i < lengthof(noise); i++)
		if (strcmp(word, noise[i]) == 0)
			return true;
	return false;
}

/*
 * singular cuts off the ending of a plural, in place.
 */
static void
singular(char *word)
{
	size_t		len = strlen(word);

	if (len > 4 && strcmp(word + len - 3, "ies") == 0)
		memcpy(word + len - 3, "y", sizeof("y"));
	else if (len > 3 && word[len - 1] == 's' && word[len - 2] != 's' && word[len - 2] != 'u' && word[len - 2] != 'i')
		word[len - 1] = '\0';
}

/*
 * add_word adds a word, or the two that it is.
 */
static List *
add_word(List *words, char *word)
{
	for (int i = 0; i < lengthof(two); i++)
		if (strcmp(word, two[i][0]) == 0)
			return lappend(lappend(words, pstrdup(two[i][1])), pstrdup(two[i][2]));
	return lappend(words, word);
}

/*
 * rehome_name_words returns the words (char *) of a name.
 */
List *
rehome_name_words(const char *name)
{
	List	   *words = NIL;
	List	   *telling = NIL;
	const char *p = name;
	ListCell   *lc;

	while (*p != '\0')
	{
		const char *start;
		char	   *word;

		while (*p != '\0' && !isalnum((unsigned char) *p) && !IS_HIGHBIT_SET(*p))
			p++;
		start = p;
		while (*p != '\0' && (isalnum((unsigned char) *p) || IS_HIGHBIT_SET(*p)))
		{
			bool		lower = islower((unsigned char) *p);

			p++;
			/* fooBar, foo1, and the B of XMLBody */
			if ((isupper((unsigned char) *p) && lower) ||
				(isupper((unsigned char) p[0]) && islower((unsigned char) p[1]) && p - start > 1) ||
				(isdigit((unsigned char) *p) && !isdigit((unsigned char) p[-1])))
				break;
		}
		if (p == start)
			break;
		word = pnstrdup(start, p - start);
		for (char *c = word; *c != '\0'; c++)
			*c = pg_tolower((unsigned char) *c);
		singular(word);
		words = add_word(words, word);
	}
	foreach(lc, words)
		if (!is_noise(lfirst(lc)))
			telling = lappend(telling, lfirst(lc));
	return telling == NIL ? words : telling;
}

/*
 * abbreviates tells whether the letters of a stand in b, in order, from the
 * first.
 */
static bool
abbreviates(const char *a, const char *b)
{
	if (strlen(a) < 2 || strlen(a) >= strlen(b) || a[0] != b[0])
		return false;
	for (; *b != '\0' && *a != '\0'; b++)
		if (*a == *b)
			a++;
	return *a == '\0';
}

static double
compare_words(const char *a, const char *b)
{
	int			longest = (int) Max(strlen(a), strlen(b));
	double		like;

	if (strcmp(a, b) == 0)
		return SAME_WORD;
	for (int i = 0; i < lengthof(same); i++)
		if ((strcmp(a, same[i][0]) == 0 && strcmp(b, same[i][1]) == 0) ||
			(strcmp(b, same[i][0]) == 0 && strcmp(a, same[i][1]) == 0))
			return SAME_MEANING;
	if (abbreviates(a, b) || abbreviates(b, a))
		return ABBREVIATION;
	if (longest < 4)
		return 0;
	like = 1.0 - (double) varstr_levenshtein(a, (int) strlen(a), b, (int) strlen(b), 1, 1, 1, true) / longest;
	return like >= LIKE_ENOUGH ? like * ABBREVIATION : 0;
}

/*
 * best_matches sums, over the words of a, the best score with a word of b.
 */
static double
best_matches(List *a, List *b)
{
	double		sum = 0;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, a)
	{
		double		best = 0;

		foreach(lc2, b)
			best = Max(best, compare_words(lfirst(lc), lfirst(lc2)));
		sum += best;
	}
	return sum;
}

/*
 * rehome_words_alike returns how much two lists of words are alike: from 0 to
 * 1, for the same words.
 */
double
rehome_words_alike(List *a, List *b)
{
	if (a == NIL || b == NIL)
		return 0;
	return (best_matches(a, b) + best_matches(b, a)) / (list_length(a) + list_length(b));
}

/*
 * rehome_words_without returns the words of a that are none of b: what is
 * left of customer_name in table customer.  NIL when nothing is.
 */
List *
rehome_words_without(List *a, List *b)
{
	List	   *rest = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, a)
	{
		bool		found = false;

		foreach(lc2, b)
			found = found || compare_words(lfirst(lc), lfirst(lc2)) >= ABBREVIATION;
		if (!found)
			rest = lappend(rest, lfirst(lc));
	}
	return rest;
}
