import org.apache.spark.sql.SparkSession;

/**
 * The Spark program of the tests: prints its arguments and what Spark counts, ends with status 3
 * if its last argument says so.
 *
 * <p>Compiled by a JDK 17: javac -g:none -cp "$SPARK_HOME/jars/*" Echo.java
 */
public class Echo {
    public static void main(String[] args) {
        for (String arg : args) {
            System.out.println("argument <" + arg + ">");
        }
        if (args.length > 0 && args[args.length - 1].equals("exit 3")) {
            System.exit(3);
        }
        SparkSession spark = SparkSession.builder().getOrCreate();
        System.out.println("application <" + spark.sparkContext().applicationId() + ">");
        System.out.println("master <" + spark.sparkContext().master() + ">");
        System.out.println("setting <" + spark.conf().get("spark.test.words", "none") + ">");
        System.out.println("parameter <" + System.getenv("day") + ">");
        System.out.println("rows <" + spark.range(1000).count() + ">");
        spark.stop();
    }
}
